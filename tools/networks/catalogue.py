"""The networks that `networks_sweep.py` looks at, each as small as its library allows, with random weights."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

VIT = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
BATCH_NORMS = """
cs3darknet_s csatv2 cspnext_tiny densenet121 dla46_c dpn48b eca_resnext26ts ecaresnet26t efficientnet_b0
efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 ghostnet_050 hardcorenas_a hgnetv2_b0
hrnet_w18_small lcnet_035 lcnetv2_small mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035
mobilevitv2_050 nextvit_small regnetx_002 regnety_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d
resnet18 resnetv2_50d_frn resnext26ts rexnet_100 selecsls42 shvit_s1 skresnet18 starnet_s050 swiftformer_xs
tresnet_m vgg11_bn xception41 convmixer_768_32 iformer_t lowformer_b0 efficientvim_m1
"""
"""Networks of timm with batch norms."""

OTHER_NORMS = """
caformer_s18 convformer_s18 poolformerv2_s12 convnext_atto convnext_atto_rms convnextv2_atto
davit_tiny edgenext_xx_small efficientnet_b0_gn focalnet_tiny_srf inception_next_atto
mambaout_femto mobilevit_xxs poolformer_s12 pvt_v2_b0 rdnet_tiny resnetv2_50 resnet50_gn test_convnext3
test_efficientnet_ln test_resnet xcit_nano_12_p8_224 resnetv2_50d_gn twins_svt_small twins_pcpvt_small sequencer2d_s
hieradet_small efficientnet_b0_g16_evos dm_nfnet_f0
"""
"""With layer, group and RMS norms, or others, alone or beside batch norms."""

TRANSFORMERS = """
beit_base_patch16_224 deit3_small_patch16_224 vit_tiny_patch16_224 vit_relpos_small_patch16_224
vit_small_patch16_dinov3 eva02_tiny_patch14_224 samvit_base_patch16
"""
"""Vision transformers of plain form."""

TIMM: dict[str, dict[str, Any]] = {
    **{name: {} for name in (*BATCH_NORMS.split(), *OTHER_NORMS.split())},
    **{name: dict(VIT) for name in TRANSFORMERS.split()},
    "inception_v3": {"size": 96},
    "botnet26t_256": {"size": 256},
    "coatnet_nano_rw_224": {"size": 224},
    "efficientformer_l1": {"size": 224},
    "efficientformerv2_s0": {"size": 224},
    "lambda_resnet26t": {"size": 64},
    "levit_128s": {"size": 224},
    "visformer_tiny": {"size": 224},
    "vit_small_patch14_reg4_dinov2": {**VIT, "img_size": 56},
    "cait_xs24_384": {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "coat_tiny": {"img_size": 64},
    "coat_lite_tiny": {"img_size": 64},
    "convit_tiny": {"img_size": 64, "depth": 3, "local_up_to_layer": 2},
    "crossvit_9_240": {"size": 240},
    "gcvit_xxtiny": {"size": 224},
    "gmixer_24_224": {"size": 224},
    "gmlp_ti16_224": {"size": 224},
    "mixer_s32_224": {"size": 224},
    "resmlp_12_224": {"size": 224},
    "hiera_tiny_224": {"size": 224},
    "maxvit_tiny_tf_224": {"size": 224, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64), "stem_width": 16},
    "maxxvit_rmlp_nano_rw_256": {"img_size": 64, "size": 64},
    "mvitv2_tiny": {"img_size": 64},
    "nest_tiny": {"img_size": 64},
    "pit_ti_224": {"size": 224},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4},
    "swinv2_cr_tiny_224": {"img_size": 64, "window_size": 4},
    "tiny_vit_5m_224": {"size": 64},
    "tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 2},
    "vitamin_small_224": {"size": 224},
    "vit_tiny_r_s16_p8_224": {"img_size": 64, "size": 64},
    "volo_d1_224": {"img_size": 64},
    "naflexvit_base_patch16_gap": {"size": 64},
    "test_vit4": {"size": 160},
}

SMP = [
    *(f"{decoder}/{encoder}" for decoder in ("Unet", "FPN", "MAnet", "UPerNet") for encoder in ("resnet18", "mit_b0")),
    *("Segformer/mit_b0", "Segformer/resnet18", "UnetPlusPlus/resnet18", "DeepLabV3/resnet18", "PSPNet/resnet18"),
    *("DeepLabV3Plus/mobilenet_v2", "PAN/mit_b0", "Linknet/resnet18", "FPN/tu-convnext_atto", "Unet/tu-test_convnext"),
    *("DPT/tu-vit_tiny_patch16_224", "UPerNet/tu-swin_tiny_patch4_window7_224"),
]

TORCHVISION = [
    *(
        "segmentation/fcn_resnet50",
        "segmentation/deeplabv3_mobilenet_v3_large",
        "segmentation/lraspp_mobilenet_v3_large",
    ),
    *("swin_t", "swin_v2_t", "convnext_tiny", "vit_b_32", "maxvit_t"),
]

Made = tuple[nn.Module, tuple[int, ...]]
"""A network and the shape of its image, channels first."""


def segformer() -> Made:
    """Hugging Face's SegFormer."""
    hf: Any = importlib.import_module("transformers")
    small = hf.SegformerConfig(num_labels=3, depths=[1, 1, 1, 1])
    return hf.SegformerForSemanticSegmentation(small), (3, 64, 64)


def upernet() -> Made:
    """Hugging Face's UPerNet on a ConvNeXt."""
    hf: Any = importlib.import_module("transformers")
    backbone = hf.ConvNextConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = hf.UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=24, num_labels=3)
    return hf.UperNetForSemanticSegmentation(config), (3, 64, 64)


def hf_swin() -> Made:
    """Hugging Face's UPerNet on a Swin."""
    hf: Any = importlib.import_module("transformers")
    backbone = hf.SwinConfig(
        image_size=64,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 3, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = hf.UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=48, num_labels=3)
    return hf.UperNetForSemanticSegmentation(config), (3, 64, 64)


def dpt() -> Made:
    """Hugging Face's DPT."""
    hf: Any = importlib.import_module("transformers")
    config = hf.DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        num_labels=3,
    )
    return hf.DPTForSemanticSegmentation(config), (3, 64, 64)


def unet_3d() -> Made:
    """MONAI's U-Net, with instance norms that have scales."""
    nets: Any = importlib.import_module("monai.networks.nets")
    norm = ("instance", {"affine": True})
    return nets.UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1, norm=norm), (1, 32, 32, 32)


def unet_3d_batch() -> Made:
    """MONAI's U-Net, with batch norms."""
    nets: Any = importlib.import_module("monai.networks.nets")
    return nets.UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), norm="batch"), (1, 32, 32, 32)


def segresnet() -> Made:
    """MONAI's SegResNet."""
    nets: Any = importlib.import_module("monai.networks.nets")
    return nets.SegResNet(3, init_filters=8, in_channels=1, out_channels=2), (1, 32, 32, 32)


def dynunet() -> Made:
    """MONAI's DynUNet."""
    nets: Any = importlib.import_module("monai.networks.nets")
    return nets.DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16]), (1, 32, 32, 32)


def swin_unetr() -> Made:
    """MONAI's SwinUNETR."""
    nets: Any = importlib.import_module("monai.networks.nets")
    return nets.SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)), (1, 64, 64, 64)


def unetr() -> Made:
    """MONAI's UNETR."""
    nets: Any = importlib.import_module("monai.networks.nets")
    return nets.UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2), (1, 32, 32, 32)


def of_timm(name: str) -> Made:
    """A network of timm."""
    timm = importlib.import_module("timm")
    settings = dict(TIMM.get(name, {}))
    size = settings.pop("size", settings.get("img_size", 64))
    return timm.create_model(name, pretrained=False, num_classes=5, **settings), (3, size, size)


def of_smp(name: str) -> Made:
    """A decoder and an encoder of segmentation-models-pytorch."""
    smp = importlib.import_module("segmentation_models_pytorch")
    decoder, encoder = name.split("/")
    size = 224 if "224" in encoder else 64
    return getattr(smp, decoder)(encoder, encoder_weights=None, classes=3), (3, size, size)


def of_torchvision(name: str) -> Made:
    """A network of torchvision."""
    module, _, function = f"torchvision.models.{name}".replace("/", ".").rpartition(".")
    weights = {"weights_backbone": None} if "segmentation" in name else {}
    size = 224 if function in ("vit_b_32", "maxvit_t") else 64
    make = getattr(importlib.import_module(module), function)
    return make(weights=None, num_classes=3, **weights), (3, size, size)


NETWORKS: dict[str, Callable[[], Made]] = {
    **{f"timm/{name}": lambda name=name: of_timm(name) for name in TIMM},
    **{f"smp/{name}": lambda name=name: of_smp(name) for name in SMP},
    **{f"torchvision/{name}": lambda name=name: of_torchvision(name) for name in TORCHVISION},
    "transformers/SegFormer": segformer,
    "transformers/UPerNet ConvNeXt": upernet,
    "transformers/UPerNet Swin": hf_swin,
    "transformers/DPT": dpt,
    "monai/UNet": unet_3d,
    "monai/UNet batch": unet_3d_batch,
    "monai/SegResNet": segresnet,
    "monai/DynUNet": dynunet,
    "monai/SwinUNETR": swin_unetr,
    "monai/UNETR": unetr,
}
