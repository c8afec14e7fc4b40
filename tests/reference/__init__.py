"""A second implementation of channel exchanging, to judge the first by: lists of tensors and explicit loops."""
