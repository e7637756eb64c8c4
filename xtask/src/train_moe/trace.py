"""Records the trained model's routing as files, and prints how predictable it is: the last step of `cargo xtask train-moe`.

Writes into `DIRECTORY/traces`: `train.safetensors` and `held-out.safetensors` with everything, `small/` with what the
repository keeps, and `measures.json`. Weights are the saved ones (bf16), arithmetic is f32.
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, MixtralForCausalLM

import corpus
import routing
import train as training

DOCUMENTS = {"train": 256, "held-out": 64}
SMALL_DOCUMENTS = 4
"""Of these, what the repository keeps: the first ones."""
SMALL_INPUTS = 256
"""Tokens of the first held-out document whose router inputs the repository keeps too: enough to check arithmetic."""


def documents(directory, tokenizer, counts):
    """The documents of either split as tokens, cut to the context that the model was trained with."""
    of_split = {"train": [], "held-out": []}
    for document in corpus.documents(directory / "corpus"):
        of_split["held-out" if corpus.is_held_out(document[1]) else "train"].append(document)
    chosen = {}
    for split, all_documents in of_split.items():
        topics = [topic for topic, _, _ in all_documents]
        encoded = training.encode(tokenizer, all_documents)
        chosen[split] = routing.choose_documents(encoded, topics, counts[split], training.CONTEXT)
    return chosen


def record_all(directory, counts):
    """The routing of either split, and the routers."""
    model = MixtralForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    recorded = {split: routing.record(model, chosen) for split, chosen in documents(directory, tokenizer, counts).items()}
    return recorded, routing.routers(model)


def tensors(recorded, routers, inputs):
    """A trace as named arrays; `inputs` is how many tokens keep theirs. The README of the assets says what each is."""
    def ahead(distance):
        layers = recorded.logits.shape[1] - distance
        scores = [routing.lookahead_rescaled(recorded, routers, layer, distance) for layer in range(layers)]
        return np.stack(scores, axis=1).astype(np.float16)

    return {
        "tokens": recorded.tokens, "positions": recorded.positions, "experts": recorded.experts,
        "logits": recorded.logits.astype(np.float16), "lookahead.1": ahead(1), "lookahead.2": ahead(2),
        "inputs": recorded.inputs[:inputs].astype(np.float16),
        "router.weight": routers.weights, "router.norm": routers.norms,
    }


def first(recorded, count):
    """The first `count` tokens."""
    return routing.Routing(recorded.tokens[:count], recorded.positions[:count], recorded.experts[:count],
                           recorded.logits[:count], recorded.inputs[:count], recorded.outputs[:count])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    traces = options.directory / "traces"
    (traces / "small").mkdir(parents=True, exist_ok=True)

    recorded, routers = record_all(options.directory, DOCUMENTS)
    for split, whole in recorded.items():
        about = {"format": "smoke-moe-trace 1", "split": split, "model": "cargo xtask train-moe"}
        save_file(tensors(whole, routers, len(whole.tokens)), traces / f"{split}.safetensors", about)
        small = first(whole, SMALL_DOCUMENTS * training.CONTEXT)
        inputs = SMALL_INPUTS if split == "held-out" else 0
        save_file(tensors(small, routers, inputs), traces / "small" / f"{split}.safetensors", about)
    measures = routing.measure(recorded["train"], recorded["held-out"], routers)
    log = json.loads((options.directory / "training.json").read_text())
    perplexity = log["log"][-1]["held_out_perplexity"]
    tokens = {split: len(whole.tokens) for split, whole in recorded.items()}
    report = {"tokens": tokens, "held_out_perplexity": perplexity, "layers": measures}
    (traces / "measures.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"held-out perplexity {perplexity:.2f}; routing of {tokens['held-out']} held-out tokens:\n")
    print(routing.table(measures))


if __name__ == "__main__":
    main()
