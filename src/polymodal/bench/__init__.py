"""How fast a network is, and what it needs: `polymodal bench`, measured side by side on the machine at hand."""

from polymodal.bench.case import Case
from polymodal.bench.loading import bench_data
from polymodal.bench.network import bench
from polymodal.bench.scaling import bench_scaling

__all__ = ["Case", "bench", "bench_data", "bench_scaling"]
