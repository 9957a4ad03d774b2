"""The mathematics of sparse autoencoders: tensors in, tensors out."""
