"""The procedural rooms behind the embedded data set: scenes, their rendering, and the sensors that look at them."""
