"""The model server: the Open Inference Protocol over ONNX Runtime."""
