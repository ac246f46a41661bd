"""What changes a model before it is quantized, as plain functions from a checkpoint's folder to another's."""
