"""What changes a model before it is quantized."""
