"""Decodes with Accelerate's disk offload and prints one JSON object: what `cargo xtask bench decode` compares with."""
import argparse
import json
import pathlib
import tempfile
import time

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--prompt-ids", required=True)
parser.add_argument("--max-tokens", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--memory", type=int, required=True, help="bytes of weights that stay in memory")
options = parser.parse_args()
prompt = [int(token) for token in options.prompt_ids.split(",")]
torch.set_num_threads(options.threads)


def places(memory):
    """Which modules stay in memory and which are read from the disk whenever they run, as Accelerate fills so much."""
    config = AutoConfig.from_pretrained(options.model)
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    found = infer_auto_device_map(empty, {"cpu": memory}, no_split_module_classes=empty._no_split_modules)
    if set(found.values()) == {"disk"}:
        # Transformers does not load a model that lies on the disk as a whole.
        modules = [f"model.{name}" for name, _ in empty.model.named_children()] + ["lm_head"]
        found = {name: "cpu" if name == "model.norm" else "disk" for name in modules}
    return found


with tempfile.TemporaryDirectory(dir=options.model.parent) as folder, torch.no_grad():
    begun = time.perf_counter()
    device_map = places(options.memory)
    # Weights on the disk are read from the checkpoint; nothing is written to the folder, but there must be one.
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype="auto", device_map=device_map, offload_folder=folder)
    start = time.perf_counter()
    past, tokens, seconds = None, [], []
    while len(tokens) < options.max_tokens:
        new = torch.tensor([tokens[-1:] or prompt])
        result = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = result.past_key_values
        tokens.append(int(result.logits[0, -1].argmax()))
        seconds.append(time.perf_counter())

print(json.dumps({
    "tokens": tokens,
    "load_seconds": start - begun,
    "prefill_seconds": seconds[0] - start,
    "decode_seconds": seconds[-1] - seconds[0],
    "tokens_per_second": (len(tokens) - 1) / (seconds[-1] - seconds[0]),
    "device_map": device_map,
}))
