"""Writing the test model: a Hugging Face folder for vLLM, a GGUF file for llama.cpp and Ollama.

Both hold the same float32 numbers, so that a difference between engines is the engines'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from loadtests.engines.vocabulary import CHAT_TEMPLATE, END, SPECIAL, START
from loadtests.engines.weights import NORM_EPSILON, ROPE_THETA
from planner.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.vocabulary import Vocabulary
    from loadtests.engines.weights import Array, Shape, Weights

__all__ = ["write_gguf", "write_hf"]

_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_hf(folder: Path, shape: Shape, vocabulary: Vocabulary, weights: Weights) -> None:
    """Write a Hugging Face model folder.

    Raises:
        EngineError: the ``engine`` extra is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise EngineError(
            f"the test model needs {error.name}: pip install 'headroom-llm[engine]'"
        ) from error
    folder.mkdir(parents=True)
    for name, document in _hf_documents(shape, vocabulary).items():
        (folder / name).write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    (folder / "tokenizer.json").write_text(vocabulary.json, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _hf_documents(shape: Shape, vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    ids = {
        "bos_token_id": vocabulary.id_of(START),
        "eos_token_id": vocabulary.id_of(END),
        "pad_token_id": vocabulary.id_of(START),
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(vocabulary.tokens),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "max_position_embeddings": shape.context,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **ids,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context,
        "bos_token": START,
        "eos_token": END,
        "pad_token": START,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "config.json": config,
        "generation_config.json": ids,
        "tokenizer_config.json": tokenizer,
    }


def write_gguf(
    path: Path, name: str, shape: Shape, vocabulary: Vocabulary, weights: Weights
) -> None:
    """Write one GGUF file.

    Raises:
        EngineError: the ``engine`` extra is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise EngineError(
            f"the test model needs {error.name}: pip install 'headroom-llm[engine]'"
        ) from error
    writer = gguf.GGUFWriter(path, "llama")
    try:
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        _add_shape(writer, shape)
        _add_vocabulary(writer, vocabulary, gguf.TokenType)
        _add_tensors(writer, shape, weights)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: Any, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, token_type: Any) -> None:
    control, normal = token_type.CONTROL, token_type.NORMAL
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([control if t in SPECIAL else normal for t in vocabulary.tokens])
    writer.add_token_merges([" ".join(merge) for merge in vocabulary.merges])
    writer.add_bos_token_id(vocabulary.id_of(START))
    writer.add_eos_token_id(vocabulary.id_of(END))
    writer.add_eot_token_id(vocabulary.id_of(END))
    writer.add_pad_token_id(vocabulary.id_of(START))
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensors(writer: Any, shape: Shape, weights: Weights) -> None:
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    for layer in range(shape.layers):
        for hf_name, gguf_name in _GGUF_NAMES.items():
            tensor = weights[f"model.layers.{layer}.{hf_name}.weight"]
            if gguf_name == "attn_q":
                tensor = _interleave(tensor, shape.heads)
            elif gguf_name == "attn_k":
                tensor = _interleave(tensor, shape.kv_heads)
            writer.add_tensor(f"blk.{layer}.{gguf_name}.weight", tensor)
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])


def _interleave(matrix: Array, heads: int) -> Array:
    """Rotary pairs from Hugging Face's halves to GGUF's neighbours, row by row."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
