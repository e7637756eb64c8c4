"""Decodes with llama.cpp and prints one JSON object: what `cargo xtask bench decode` compares with."""
import argparse
import json
import time

import numpy as np
import llama_cpp

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--prompt-ids", required=True)
parser.add_argument("--max-tokens", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--forced-ids", help="tokens to go on with, whatever is likeliest")
options = parser.parse_args()
prompt = [int(token) for token in options.prompt_ids.split(",")]

begun = time.perf_counter()
llama_cpp.llama_backend_init()
model_params = llama_cpp.llama_model_default_params()
model_params.use_mmap = True
model_params.n_gpu_layers = 0
model = llama_cpp.llama_model_load_from_file(options.model.encode(), model_params)
context_params = llama_cpp.llama_context_default_params()
context_params.n_ctx = len(prompt) + options.max_tokens
context_params.n_batch = max(len(prompt), 32)
context_params.n_threads = options.threads
context_params.n_threads_batch = options.threads
context = llama_cpp.llama_init_from_model(model, context_params)
vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))


def step(tokens):
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    batch = llama_cpp.llama_batch_get_one(array, len(tokens))
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama.cpp cannot decode")
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())


start = time.perf_counter()
forced = [int(token) for token in options.forced_ids.split(",")] if options.forced_ids else []
tokens = [step(prompt)]
first = time.perf_counter()
while len(tokens) < options.max_tokens:
    before = len(tokens) - 1
    tokens.append(step(forced[before:before + 1] or tokens[-1:]))
end = time.perf_counter()
print(json.dumps({
    "tokens": tokens,
    "load_seconds": start - begun,
    "prefill_seconds": first - start,
    "decode_seconds": end - first,
    "tokens_per_second": (len(tokens) - 1) / (end - first),
}))
