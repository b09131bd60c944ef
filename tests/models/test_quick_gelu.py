import pytest
import torch
from transformers.activations import QuickGELUActivation

from verbspace.models.quick_gelu import QuickGELU
from verbspace.models.video_encoder import VideoEncoder


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]
)
def test_values_and_gradients_are_those_of_transformers(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(4, 5, 300, dtype=torch.float64).mul(4)
    weight = torch.randn_like(x)
    outputs = []
    for activation, used in ((QuickGELU(), dtype), (QuickGELUActivation(), torch.float64)):
        leaf = x.to(dtype).to(used).requires_grad_()
        y = activation(leaf)
        assert y.dtype == used
        outputs.append((y.double(), torch.autograd.grad((y * weight.to(used)).sum(), leaf)[0].double()))
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_image_layers_use_it_and_text_layers_do_not() -> None:
    base = VideoEncoder.from_pretrained("playground").base
    assert all(type(layer.mlp.activation_fn) is QuickGELU for layer in base.vision_model.encoder.layers)
    assert not any(isinstance(module, QuickGELU) for module in base.text_model.modules())
