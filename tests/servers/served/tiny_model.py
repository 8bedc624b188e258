"""Writes a language model with random weights as a GGUF file of less than a megabyte: `tiny_model.py FILE`.

A llama with two layers. Its answers mean nothing; the tokens, the chat template, the grammar and the stop are real.
The first dimension of every embedding is a constant that no layer changes. The output's first column therefore is a bias of each
token: words are likely, single bytes are not, so answers are valid UTF-8, and a quotation mark is likely enough that strings
in JSON end soon.
"""

import math
import string
import sys

import gguf
import numpy as np

DIMENSIONS, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 32, 2, 2, 64, 4096
CONSTANT = 6.0
# The share of the tokens of free text that end the turn.
END_OF_TURN = 0.04
WORDS = """
    apple river stone window paper morning quiet seven letter garden music number bridge winter yellow open carry small
    answer question about under after again above never always maybe because together across between without against
    naïve café œuvre straße 東京 山 привет 🙂 🚲
""".split()

TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def vocabulary():
    """The tokens: their text, their type and their logit's bias."""
    kind = gguf.TokenType
    never = -25.0
    yield "<unk>", kind.UNKNOWN, never
    yield "<s>", kind.CONTROL, never
    yield "</s>", kind.CONTROL, never
    yield "<|turn|>", kind.CONTROL, never
    yield "<|end|>", kind.CONTROL, None
    for byte in range(256):
        yield f"<0x{byte:02X}>", kind.BYTE, -12.0
    for character in string.ascii_letters + string.digits + string.punctuation:
        bias = {'"': 3.0, ",": 0.5, "}": 0.5, "]": 0.5}.get(character, -2.0)
        yield character, kind.NORMAL, bias
    # The tokenizer's mark of a space.
    yield "\u2581", kind.NORMAL, -1.0
    for word in WORDS:
        yield f"\u2581{word}", kind.NORMAL, 1.0


def main(path):
    random = np.random.default_rng(7)

    def weights(rows, columns, deviation):
        return random.normal(0.0, deviation, (rows, columns)).astype(np.float32)

    texts, kinds, biases = zip(*vocabulary())
    end = texts.index("<|end|>")
    others = sum(math.exp(bias) for bias in biases if bias is not None)
    biases = [math.log(END_OF_TURN * others) if bias is None else bias for bias in biases]

    embedding = weights(len(texts), DIMENSIONS, 0.4)
    embedding[:, 0] = CONSTANT
    output = weights(len(texts), DIMENSIONS, 0.1)
    # The norm before the output divides by the root of the mean square, nearly all of which is the constant.
    output[:, 0] = np.array(biases) / math.sqrt(DIMENSIONS)

    file = gguf.GGUFWriter(path, "llama")
    file.add_name("tiny")
    file.add_file_type(gguf.LlamaFileType.ALL_F32)
    file.add_vocab_size(len(texts))
    file.add_context_length(CONTEXT)
    file.add_embedding_length(DIMENSIONS)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FEED_FORWARD)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_rope_dimension_count(DIMENSIONS // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_tokenizer_model("llama")
    file.add_token_list([text.encode() for text in texts])
    file.add_token_types([int(kind) for kind in kinds])
    file.add_token_scores([-float(number) for number in range(len(texts))])
    file.add_unk_token_id(0)
    file.add_bos_token_id(1)
    file.add_eos_token_id(end)
    file.add_eot_token_id(end)
    file.add_add_bos_token(True)
    file.add_add_space_prefix(False)
    file.add_chat_template(TEMPLATE)

    ones = np.ones(DIMENSIONS, np.float32)
    file.add_tensor("token_embd.weight", embedding)
    file.add_tensor("output_norm.weight", ones)
    file.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v"):
            file.add_tensor(f"blk.{layer}.{name}.weight", weights(DIMENSIONS, DIMENSIONS, 0.15))
        for name in ("ffn_gate", "ffn_up"):
            file.add_tensor(f"blk.{layer}.{name}.weight", weights(FEED_FORWARD, DIMENSIONS, 0.15))
        for name, columns in (("attn_output", DIMENSIONS), ("ffn_down", FEED_FORWARD)):
            into_the_stream = weights(DIMENSIONS, columns, 0.05)
            into_the_stream[0, :] = 0.0
            file.add_tensor(f"blk.{layer}.{name}.weight", into_the_stream)

    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


if __name__ == "__main__":
    main(sys.argv[1])
