"""Feedback alignment over kinds of layers. Oracle: the error at the input, with other feedback weights and the same.

With its own weight as feedback weight a layer's gradients are those of backprop. With any other one the gradient of the
weight stays, and that of the input is another. What cannot have a feedback weight is refused by the layer's name.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from blocklocal import BlockLocal, InputError, split
from blocklocal.rules.feedback_alignment import FeedbackLayers


class Calls(nn.Module):
    """A module of a user's own: weights [4, 4] and a function of them and the input."""

    def __init__(self, forward, shape=(4, 4)):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(4))
        self.register_buffer("mask", torch.ones(4, 4).tril())
        self.forward = lambda x: forward(self, x)


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x, attn_mask=torch.full((5, 5), -1.0).triu(1))[0]


class CrossAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x.flip(1), x, x.roll(1, 1), need_weights=False)[0]


def packed(m, x):
    """Queries, keys and values from slices of one weight, as many transformers have it."""
    q, k, v = (F.linear(x, m.weight[4 * i : 4 * i + 4]) for i in range(3))
    return F.scaled_dot_product_attention(q, k, v)


SEQUENCE, MAPS = (3, 5, 4), (3, 4, 6, 6)
COVERED = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1), (3, 4, 9)),
    "Conv1d same": (lambda: nn.Conv1d(4, 6, 3, padding="same", groups=2), (3, 4, 9)),
    "Conv1d circular": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 9)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 2, bias=False), (3, 4, 3, 4, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), (3, 4, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), MAPS),
    "ConvTranspose2d dilated": (lambda: nn.ConvTranspose2d(4, 6, 3, dilation=3, output_padding=2), MAPS),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (3, 4, 3, 3, 3)),
    "Bilinear": (lambda: Calls(lambda m, x: F.bilinear(x, x.flip(0), m.weight, m.bias), (4, 4, 4)), (3, 4)),
    "MultiheadAttention": (SelfAttention, SEQUENCE),
    "MultiheadAttention without bias": (lambda: SelfAttention(bias=False), SEQUENCE),
    "MultiheadAttention, cross": (CrossAttention, SEQUENCE),
    "MultiheadAttention, separate": (lambda: CrossAttention(kdim=4, vdim=4), SEQUENCE),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), SEQUENCE),
    "functional linear": (lambda: Calls(lambda m, x: F.linear(x, m.weight, m.bias)), SEQUENCE),
    "functional linear of one vector": (lambda: Calls(lambda m, x: F.linear(x[0], m.weight, m.bias)), (3, 4)),
    "functional conv1d": (lambda: Calls(lambda m, x: F.conv1d(x, m.weight[..., None], m.bias)), (3, 4, 9)),
    "single image": (lambda: nn.Conv2d(4, 6, 3), (4, 6, 6)),
    "@": (lambda: Calls(lambda m, x: x @ m.weight), SEQUENCE),
    "@ transposed": (lambda: Calls(lambda m, x: x @ m.weight.T + m.bias), SEQUENCE),
    "@ from the left": (lambda: Calls(lambda m, x: m.weight @ x.mT), SEQUENCE),
    "mm": (lambda: Calls(lambda m, x: torch.mm(x, m.weight)), (3, 4)),
    "aten mm": (lambda: Calls(lambda m, x: torch.ops.aten.mm(x, m.weight)), (3, 4)),
    "bmm": (lambda: Calls(lambda m, x: torch.bmm(x, m.weight.expand(3, 4, 4))), SEQUENCE),
    "addmm": (lambda: Calls(lambda m, x: torch.addmm(m.bias, x, m.weight)), (3, 4)),
    "einsum": (lambda: Calls(lambda m, x: torch.einsum("btd,de->bte", x, m.weight)), SEQUENCE),
    "attention by hand": (lambda: Calls(packed, (12, 4)), SEQUENCE),
    "weight times a mask": (lambda: Calls(lambda m, x: F.linear(x, m.weight * m.mask)), SEQUENCE),
    "frozen weight": (lambda: nn.Sequential(nn.Linear(4, 4)).requires_grad_(requires_grad=False), (3, 4)),
    "detached weight": (lambda: Calls(lambda m, x: F.linear(x, m.weight.detach())), (3, 4)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), (3, 4)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv1d(4, 5, 3)), (3, 4, 9)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), (3, 4)),
}  # fmt: skip


class Straight(torch.autograd.Function):
    """x Wᵀ with backprop's own errors, out of sight."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


def prototypes(m, x):
    return torch.cdist(x, m.weight)


REFUSED = {
    "LSTM": (lambda: nn.LSTM(4, 4), "lstm"),
    "GRU": (lambda: nn.GRU(4, 4), "gru"),
    "RNN": (lambda: nn.RNN(4, 4), "rnn_tanh"),
    "Calls": (lambda: Calls(prototypes), "cdist"),
}
BY_HAND = {
    "a product and a sum": lambda m, x: (x.unsqueeze(-1) * m.weight).sum(-2),
    "complex weights": lambda m, x: (torch.fft.fft(x) @ torch.view_as_complex(m.weight.view(2, 4, 2)).T).real,
    "a vector of weights": lambda m, x: (x @ m.bias).unsqueeze(-1),
    "two weights in one product": lambda m, x: torch.einsum("bd,de,ef->bf", x, m.weight, m.weight),
    "distances": prototypes,
    "learned keys": lambda m, x: F.scaled_dot_product_attention(x[None], m.weight[None], m.weight[None])[0],
    "into data of its own": lambda m, x: torch.zeros(len(x), 4).copy_(x).cos() * m.weight[: len(x)],
    "lookup in what weights make": lambda m, x: torch.special.xlogy(x, m.weight[: len(x)].abs()),
}  # fmt: skip
HARMLESS = {
    "a learned mask": lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.weight[:3, :3]),
    "added": lambda m, x: x + m.weight[: len(x)],
    "a gain per unit": lambda m, x: x * m.bias,
    "looked up": lambda m, x: x + m.weight[x.argmax(-1)],
    "a learned token": lambda m, x: torch.cat([m.weight[:1], x]),
    "a norm over two axes": lambda m, x: F.layer_norm(x[:, None] * torch.ones(4, 1), (4, 4), m.weight),
    "a comparison": lambda m, x: x * (x > m.weight[: len(x)]).float(),
}  # fmt: skip


def gradients(module, x, forward_context=None):
    """(output; gradient of the input; those of the parameters) of a weighted sum of the output."""
    x, parameters = x.clone().requires_grad_(), [p for p in module.parameters() if p.requires_grad]
    if forward_context is None:
        output = module(x)
    else:
        with forward_context.context(module):
            output = module(x)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    first, *rest = torch.autograd.grad((output * weight).sum(), [x, *parameters], allow_unused=True)
    return output, first, rest


def made(kind):
    torch.manual_seed(0)
    make, shape = COVERED[kind]
    return make().eval(), torch.randn(shape)


def close(a, b):
    return (a is None and b is None) or torch.allclose(a, b, rtol=1e-4, atol=1e-5)


class TestCovered:
    @pytest.mark.parametrize("kind", COVERED)
    def test_the_error_at_the_input_is_not_that_of_backprop(self, kind):
        module, x = made(kind)
        plain, fed = gradients(module, x), gradients(module, x, FeedbackLayers(module))
        assert torch.allclose(plain[0], fed[0], atol=1e-6)
        assert not torch.allclose(plain[1], fed[1])

    @pytest.mark.parametrize("kind", [kind for kind in COVERED if kind != "TransformerEncoderLayer"])  # it skips
    def test_no_error_comes_back_through_feedback_weights_of_zero(self, kind):
        module, x = made(kind)
        forward_context = FeedbackLayers(module)
        for feedback in forward_context.buffers():
            feedback.zero_()
        assert not gradients(module, x, forward_context)[1].any()

    @pytest.mark.parametrize("kind", [kind for kind in COVERED if "mask" not in kind])  # feedback knows no mask
    def test_with_its_own_weights_as_feedback_it_is_backprop(self, kind):
        module, x = made(kind)
        forward_context = FeedbackLayers(module)
        for name, feedback in forward_context.named_buffers():
            path = name.removeprefix("/").replace("/", ".")
            owner, _, last = path.rpartition(".")
            own = getattr(module.get_submodule(owner), last) if path else module
            feedback.copy_((own.weight if isinstance(own, nn.Module) else own).detach())
        plain, fed = gradients(module, x), gradients(module, x, forward_context)
        assert close(plain[1], fed[1])
        assert all(close(a, b) for a, b in zip(plain[2], fed[2], strict=True))


def test_one_layer_gives_its_weights_the_gradient_of_backprop_whatever_the_feedback():
    for kind in ("Conv1d", "Conv3d", "ConvTranspose2d", "Bilinear", "@", "einsum", "weight_norm"):
        module, x = made(kind)
        plain, fed = gradients(module, x), gradients(module, x, FeedbackLayers(module))
        assert all(close(a, b) for a, b in zip(plain[2], fed[2], strict=True)), kind


def test_attention_with_dropout_and_other_options_gives_what_torch_gives():
    torch.manual_seed(0)
    x, mask = torch.randn(3, 5, 4), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True, add_zero_attn=True)
    options = {"key_padding_mask": mask, "average_attn_weights": False}
    torch.manual_seed(1)
    expected = attention(x, x, x, **options)
    forward_context = FeedbackLayers(attention)
    torch.manual_seed(1)
    with forward_context.context(attention):
        found = attention(x, x, x, **options)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("kind", ["Conv1d", "MultiheadAttention", "@", "Bilinear"])
def test_bfloat16_autocast_keeps_the_feedback_route(kind):
    module, x = made(kind)
    forward_context = FeedbackLayers(module)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fed = gradients(module, x), gradients(module, x, forward_context)
        for feedback in forward_context.buffers():
            feedback.zero_()
        _, none, _ = gradients(module, x, forward_context)
    assert torch.isfinite(fed[1]).all()
    assert not torch.allclose(plain[1], fed[1], rtol=0.1, atol=0.1)
    assert not none.any()


class Last(nn.Module):
    """The last output of a recurrent layer, in a network of two blocks."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        found = self.layer(x.unsqueeze(1))
        return found[0].squeeze(1) if isinstance(found, tuple) else found.squeeze(1)


def network(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 3))
    return BlockLocal(split(model, 2), classes=3, rule="feedback-alignment", example=torch.zeros(2, 4))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_without_feedback_weights_is_refused_by_name_when_the_network_is_made(kind):
    make, function = REFUSED[kind]
    with pytest.raises(InputError, match=rf"cannot replace the transposed weights of '.*' \({kind}\).*{function}\(\)"):
        network(Last(make()))


@pytest.mark.parametrize("kind", BY_HAND)
def test_weights_that_meet_data_in_another_way_are_refused(kind):
    torch.manual_seed(0)
    module, x = Calls(BY_HAND[kind]), torch.randn(3, 4)
    with pytest.raises(InputError, match="feedback-alignment cannot replace"), FeedbackLayers(module).context(module):
        module(x)


@pytest.mark.parametrize("kind", HARMLESS)
def test_weights_whose_values_are_in_no_error_are_left_alone(kind):
    torch.manual_seed(0)
    module, x = Calls(HARMLESS[kind]), torch.randn(3, 4)
    plain, fed = gradients(module, x), gradients(module, x, FeedbackLayers(module))
    assert torch.equal(plain[1], fed[1])


class Again(nn.Module):
    """Layers that are run again in the backward pass, in training."""

    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant) if self.training else self.inner(x)


OUT_OF_SIGHT = {
    "an autograd function": lambda: Calls(lambda m, x: Straight.apply(x, m.weight)),
    "a scripted module": lambda: torch.jit.script(nn.Linear(4, 4)),
    "checkpointing": lambda: Again(reentrant=False),
    "reentrant checkpointing": lambda: Again(reentrant=True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", OUT_OF_SIGHT)
def test_weights_that_the_backward_pass_reads_out_of_sight_are_refused(kind):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), OUT_OF_SIGHT[kind](), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    forward_context = FeedbackLayers(module)
    with pytest.raises(InputError, match=r"cannot replace (the )?transposed weights"):
        forward_context.check(module, torch.randn(2, 4))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_network_of_tokens_is_checked_too():
    torch.manual_seed(0)
    for layer, right in ((nn.Linear(4, 4), True), (OUT_OF_SIGHT["an autograd function"](), False)):
        module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(0, 1), layer, nn.Linear(4, 3))
        forward_context, tokens = FeedbackLayers(module), torch.randint(7, (2, 5))
        if right:
            forward_context.check(module, tokens)
        else:
            with pytest.raises(InputError, match=r"'2\.weight'"):
                forward_context.check(module, tokens)


def test_a_check_leaves_weights_statistics_modes_and_the_generator_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    example, before = torch.randn(1, 4), {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.get_rng_state()
    BlockLocal(split(model, 2), classes=3, rule="feedback-alignment", example=example)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)
