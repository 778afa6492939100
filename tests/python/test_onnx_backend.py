"""ONNX's own backend tests (one model for each operator and case, and old exports of PyTorch) through planish."""

import unittest

import onnx.backend.test

import planish.onnx_backend

EXCLUDED = {
    "operators outside the ONNX domain (classical machine learning, training) and image files": (
        r"test_ai_onnx_ml_",
        r"test_(adagrad|adam|momentum|nesterov_momentum|gradient_of_add)",
        r"test_image_decoder_",
    ),
    "random numbers, of which ONNX fixes the distribution only": (r"test_bernoulli", r"test_training_dropout"),
    "expected within 1e-3, which is less than one step of bfloat16 (2^-8) or float16 rounding in between": (
        r"test_attention_\w*(bf16|fp16)",
    ),
    "expected within 1e-7 beside values of 54, which is less than one step of float32": (r"test_dft_inverse",),
    "a sequence that ONNX's own runner compares with an array": (r"test_loop16_seq_none",),
    "models that have to be downloaded": (
        r"test_(bvlc_alexnet|densenet121|inception_v1|inception_v2|resnet50|shufflenet|squeezenet|vgg19|zfnet512)",
    ),
}

tests = onnx.backend.test.BackendTest(planish.onnx_backend, __name__)
for patterns in EXCLUDED.values():
    for pattern in patterns:
        tests.exclude(pattern)
tests.exclude("_cuda")
globals().update(tests.test_cases)


if __name__ == "__main__":
    unittest.main()
