"""Real model definitions at tiny sizes, with random weights.

transformers' GPT-2 (whose layers are Conv1D), Llama and ViT; timm's ViT and MLP-Mixer;
torch's TransformerEncoder; and the GPT of `examples/swap_gpt.py`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
SYMBOLS, TOKENS, BATCH = 50, 16, 3


def _let_torchvision_load() -> None:
    """A torchvision built for CUDA lacks two operators beside a torch for the CPU.

    timm and transformers import it and call neither: here they are declared.
    """
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None
    try:
        ctypes.CDLL(str(Path(spec.origin).with_name("_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
        _KEPT.append(library)  # or what it declares is gone


_KEPT: list[torch.library.Library] = []
_let_torchvision_load()

import timm.models  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
sys.path.insert(0, str(ROOT / "examples"))
import swap_gpt  # noqa: E402

Loss = Callable[[nn.Module], torch.Tensor]
Made = tuple[nn.Module, Loss]


def _text(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(SYMBOLS, (BATCH, TOKENS), generator=generator)


def _pictures(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    pictures = torch.randn(BATCH, 3, 16, 16, generator=generator)
    return pictures, torch.arange(BATCH)


def gpt2(generator: torch.Generator) -> Made:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": TOKENS}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(vocab_size=SYMBOLS, **sizes, **rates, **ends)
    ids = _text(generator)
    return transformers.GPT2LMHeadModel(config), lambda m: m(ids, labels=ids).loss


def llama(generator: torch.Generator) -> Made:
    config = transformers.LlamaConfig(
        vocab_size=SYMBOLS,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=None,
        eos_token_id=None,
    )
    ids = _text(generator)
    return transformers.LlamaForCausalLM(config), lambda m: m(ids, labels=ids).loss


def vit(generator: torch.Generator) -> Made:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=BATCH,
    )
    pictures, labels = _pictures(generator)
    model = transformers.ViTForImageClassification(config)
    return model, lambda m: m(pictures, labels=labels).loss


def timm_vit(generator: torch.Generator) -> Made:
    model = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=BATCH
    )
    pictures, labels = _pictures(generator)
    return model, lambda m: nn.functional.cross_entropy(m(pictures), labels)


def mixer(generator: torch.Generator) -> Made:
    model = timm.models.MlpMixer(
        img_size=16, patch_size=4, num_blocks=2, embed_dim=32, num_classes=BATCH
    )
    pictures, labels = _pictures(generator)
    return model, lambda m: nn.functional.cross_entropy(m(pictures), labels)


def encoder(generator: torch.Generator) -> Made:
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    x = torch.randn(BATCH, TOKENS, 32, generator=generator)
    target = torch.randn(BATCH, TOKENS, 32, generator=generator)
    return model, lambda m: nn.functional.mse_loss(m(x), target)


def gpt(generator: torch.Generator) -> Made:
    model = swap_gpt.Gpt(width=32, depth=2, heads=2, symbols=SYMBOLS, context=TOKENS)
    ids = _text(generator)
    return model, lambda m: swap_gpt.loss(m, ids)


MODELS: dict[str, Callable[[torch.Generator], Made]] = {
    f.__name__: f for f in (gpt2, llama, vit, timm_vit, mixer, encoder, gpt)
}


def make(name: str, seed: int = 0) -> Made:
    """The model, the same for the same seed, and its loss on a fixed batch."""
    torch.manual_seed(seed)
    return MODELS[name](torch.Generator().manual_seed(7))
