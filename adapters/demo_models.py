"""The pack's own small models as ComfyUI's MODEL, CLIP and VAE.

The video model and the VAE are files of core's formats (Wan 2.2 I2V-A14B layout and Wan 2.1 VAE)
and go through core's own loaders. Core has no loader for a text encoder of this size, so the CLIP
object is built here from core's `comfy.sd.CLIP` with a tokenizer and a model class of ours. What
the models were trained on: `weights/README.md`.

The text model is also what `training/` trains. No state is kept in this module.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent.parent / "weights"
VAE_FILE = WEIGHTS / "vae" / "throughline_demo_vae.safetensors"
VIDEO_FILE = WEIGHTS / "diffusion_models" / "throughline_demo_video.safetensors"
TEXT_FILE = WEIGHTS / "text_encoders" / "throughline_demo_text.safetensors"
SPARSE_VIDEO_FILE = WEIGHTS / "diffusion_models" / "throughline_demo_sparse.safetensors"
SPARSE_TEXT_FILE = WEIGHTS / "text_encoders" / "throughline_demo_sparse_text.safetensors"
# folders of weights/ and of folder_paths
CATEGORIES = ("vae", "diffusion_models", "text_encoders", "loras")

PAD, UNKNOWN, START = 0, 1, 2  # the first three entries of every vocabulary
SPECIAL_WORDS = ("<pad>", "<unknown>", "<start>")
MAX_TOKENS = 64
MIN_TOKENS = (
    16  # shorter texts are padded, so that every caption of the world gives a tensor of one size
)
TOKENS_KEY = "throughline_demo"  # name of this tokenizer in core's dict of token lists
WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")  # letters, or digits, or one punctuation mark


class DemoTextModel(nn.Module):
    """A word-level transformer encoder: token ids `b n` -> features `b n width`.

    The methods besides `forward` are what `comfy.sd.CLIP` calls on its `cond_stage_model`.
    `operations` is a namespace of layer classes from `comfy.ops`.
    """

    def __init__(
        self,
        vocabulary: int,
        operations: Any,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.dtypes = {torch.float32 if dtype is None else dtype}  # read by comfy.sd.CLIP
        self.token = operations.Embedding(vocabulary, width, **place)
        self.position = operations.Embedding(MAX_TOKENS, width, **place)
        self.blocks = nn.ModuleList(
            DemoTextBlock(width, heads, operations, place) for _ in range(layers)
        )
        self.norm = operations.LayerNorm(width, **place)

    def forward(self, ids: Tensor) -> Tensor:
        """Features of token ids `b n`, n at most 64, float32."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.token(ids, out_dtype=torch.float32)
        x = x + self.position(positions, out_dtype=torch.float32)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def encode_token_weights(
        self, tokens: Mapping[str, list[list[tuple[int, float]]]]
    ) -> tuple[Tensor, None]:
        """Features `1 n width` and no pooled output.

        A weight scales a token's distance from the same position of the empty text, as core does
        for its encoders.
        """
        pairs = tokens[TOKENS_KEY][0]
        device = next(self.parameters()).device
        empty = [START] + [PAD] * (len(pairs) - 1)
        ids = torch.tensor([[token for token, _ in pairs], empty], device=device)
        weights = torch.tensor([weight for _, weight in pairs], device=device)[:, None]
        features, plain = self(ids).float()
        if bool((weights == 1.0).all()):
            return features[None], None
        return torch.lerp(plain, features, weights)[None], None

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Core offers a layer to stop at and a device; this encoder has one output."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def load_sd(self, state: Mapping[str, Tensor]) -> Any:
        """Load a state dict and return core's pair of missing and unexpected keys."""
        return self.load_state_dict(state, strict=False)


class DemoTextBlock(nn.Module):
    """Pre-norm self-attention and feed-forward over `b n width`."""

    def __init__(self, width: int, heads: int, operations: Any, place: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = operations.LayerNorm(width, **place)
        self.qkv = operations.Linear(width, 3 * width, **place)
        self.out = operations.Linear(width, width, **place)
        self.norm_feed = operations.LayerNorm(width, **place)
        self.feed_in = operations.Linear(width, 2 * width, **place)
        self.feed_out = operations.Linear(2 * width, width, **place)

    def forward(self, x: Tensor) -> Tensor:
        """`b n width` -> `b n width`."""
        b, n, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(b, n, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
        x = x + self.out(mixed)
        return x + self.feed_out(F.gelu(self.feed_in(self.norm_feed(x))))


class DemoTokenizer:
    """Words, numbers and punctuation marks in lower case; unknown ones become `<unknown>`.

    The constructor's arguments besides `vocabulary` are the ones `comfy.sd.CLIP` passes.
    """

    def __init__(
        self,
        vocabulary: tuple[str, ...],
        embedding_directory: Any = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.index = {word: i for i, word in enumerate(vocabulary)}

    def ids(self, text: str) -> list[int]:
        """Ids of the words of a plain text, without start and padding."""
        return [self.index.get(word, UNKNOWN) for word in WORD.findall(text.lower())]

    def padded(self, ids: list[int]) -> list[int]:
        """Start token first, cut at 64, padded to at least 16."""
        ids = [START, *ids][:MAX_TOKENS]
        return ids + [PAD] * (MIN_TOKENS - len(ids))

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, list[list[tuple]]]:
        """Tokens with weights of core's `(word:1.2)` syntax."""
        from comfy.sd1_clip import escape_important, token_weights, unescape_important

        pairs = [
            (token, weight)
            for part, weight in token_weights(escape_important(text), 1.0)
            for token in self.ids(unescape_important(part))
        ][: MAX_TOKENS - 1]
        ids = self.padded([token for token, _ in pairs])
        weights = [1.0, *(weight for _, weight in pairs)]
        weights += [1.0] * (len(ids) - len(weights))
        # a word id counts words from 1; start and padding have 0
        word_ids = [i if 0 < i <= len(pairs) else 0 for i in range(len(ids))]
        columns = (ids, weights, word_ids) if return_word_ids else (ids, weights)
        return {TOKENS_KEY: [list(zip(*columns, strict=True))]}

    def untokenize(self, pairs: list[tuple]) -> list[tuple]:
        """Pairs of token and its word, as core's tokenizers do."""
        return [(pair, self.vocabulary[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing to save beside the metadata."""
        return {}


def register_weight_folders() -> None:
    """Add the pack's weight folders to `folder_paths`, so that core's loaders list the files."""
    import folder_paths

    for category in CATEGORIES:
        folder_paths.add_model_folder_path(category, str(WEIGHTS / category))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file. Raises ValueError naming the file and the rule."""
    import comfy.utils

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name}: only safetensors files are read")
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file in {path.parent}")
    state, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    return state, metadata or {}


def read_vocabulary(
    metadata: Mapping[str, str], name: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sizes and vocabulary out of the metadata key `config` of the file `name`."""
    text: dict[str, Any] = json.loads(metadata.get("config", "{}")).get("text", {})
    vocabulary = tuple(text.get("vocabulary", ()))
    if vocabulary[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        raise ValueError(
            f"{name}: the metadata key 'config' must hold text.vocabulary,"
            f" starting with {SPECIAL_WORDS}"
        )
    return {key: int(text[key]) for key in ("width", "layers", "heads") if key in text}, vocabulary


def load_demo_text_encoder(path: Path = TEXT_FILE) -> Any:
    """A CLIP object of the demo text encoder: conditioning `1 n 128`."""
    import comfy.ops
    import comfy.sd

    path = Path(path)
    state, metadata = _read(path)
    sizes, vocabulary = read_vocabulary(metadata, path.name)
    model = partial(DemoTextModel, len(vocabulary), comfy.ops.manual_cast, **sizes)
    expected = set(model(device=torch.device("meta")).state_dict())
    if expected != set(state):
        raise ValueError(
            f"{path.name}: a demo text encoder has other tensors;"
            f" missing {sorted(expected - set(state))[:3]},"
            f" unexpected {sorted(set(state) - expected)[:3]}"
        )
    target = SimpleNamespace(params={}, clip=model, tokenizer=partial(DemoTokenizer, vocabulary))
    parameters = sum(tensor.numel() for tensor in state.values())
    # float32: half a million parameters, nothing to save
    options = {"dtype": torch.float32}
    clip = comfy.sd.CLIP(target, parameters=parameters, state_dict=state, model_options=options)
    clip.patcher.cached_patcher_init = (_load_text_patcher, (str(path),))
    return clip


def _load_text_patcher(path: str, disable_dynamic: bool = False) -> Any:
    """What core calls to load the encoder once more for another device."""
    return load_demo_text_encoder(Path(path)).patcher


def load_demo_vae(path: Path = VAE_FILE) -> Any:
    """The demo VAE through core's `comfy.sd.VAE`."""
    import comfy.sd

    state, metadata = _read(path)
    vae = comfy.sd.VAE(sd=state, metadata=metadata)
    vae.throw_exception_if_invalid()
    # same values in the memory order that a CPU convolves fast: decoding in 2/3 of the time
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in vae.first_stage_model.parameters():
        if parameter.ndim in orders:
            parameter.data = parameter.data.contiguous(memory_format=orders[parameter.ndim])
    return vae


def load_demo_video_model(path: Path = VIDEO_FILE) -> Any:
    """The demo video model through core's `comfy.sd.load_diffusion_model`, a ModelPatcher."""
    import comfy.sd

    _, metadata = _read(path)
    if "transformer" not in json.loads(metadata.get("config", "{}")):
        raise ValueError(f"{Path(path).name}: the metadata key 'config' must hold 'transformer'")
    return comfy.sd.load_diffusion_model(str(path))


def load_demo_models(
    video: Path = VIDEO_FILE, text: Path = TEXT_FILE, vae: Path = VAE_FILE
) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo world. Raises ValueError naming the file and the rule."""
    return load_demo_video_model(video), load_demo_text_encoder(text), load_demo_vae(vae)
