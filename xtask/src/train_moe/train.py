"""Trains a small Mixtral: `cargo xtask train-moe`. Run again, it goes on from its last checkpoint.

A seed fixes the weights at the start and the windows of every step, so that two runs on one machine and one version
of PyTorch give the same model.
"""
import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import corpus

SEED = 20240108
VOCABULARY = 2048
CONTEXT = 256
"""Tokens of a window, in training and in the traces."""
WINDOWS = 8
"""Windows of a step."""
LEARNING_RATE = 2e-3
WARM_UP = 100
BALANCE = 0.02
"""Weight of the load-balancing loss (`router_aux_loss_coef`)."""
END = "<|endoftext|>"


def configuration():
    return MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=192, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT * 4, rope_theta=10000.0,
        num_local_experts=16, num_experts_per_tok=2, router_aux_loss_coef=BALANCE, sliding_window=None,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, use_cache=True, initializer_range=0.02)


def train_tokenizer(texts):
    """A byte-level BPE as GPT-2's, of `VOCABULARY` tokens; token 0 ends a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def encode(tokenizer, documents):
    """Each document's tokens, begun by `END`, in their order."""
    texts = [text for _, _, text in documents]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array([0, *one.ids], dtype=np.int64) for one in encoded]


def windows(stream, step):
    """The windows of a step: wherever a generator seeded with the step's number says."""
    starts = np.random.default_rng([SEED, step]).integers(0, len(stream) - CONTEXT, WINDOWS)
    return torch.from_numpy(np.stack([stream[start:start + CONTEXT] for start in starts]))


def balance(router_logits, config):
    """The loss of Switch Transformers (Fedus et al. 2021) that Mixtral's training uses, for each layer by itself.

    Transformers' model joins all layers before it counts, and then an expert that a layer never uses is no loss if
    another layer makes up for it.
    """
    of_layer = [load_balancing_loss_func((logits,), config.num_local_experts, config.num_experts_per_tok)
                for logits in router_logits]
    return torch.stack(of_layer).mean()


def learning_rate(step, steps):
    """Up, level, and in the last quarter down to nothing, each linear (warm-up, stable, decay: Hu et al. 2024).

    Until it falls it doesn't depend on how many steps there will be.
    """
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1.0, (steps - step) / (steps // 4 + 1))


def perplexity(model, documents):
    """Over all held-out tokens but each document's first, in windows that do not overlap."""
    model.eval()
    stream = torch.from_numpy(np.concatenate(documents))
    rows = stream[:len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    loss, count = 0.0, 0
    with torch.no_grad():
        for batch in rows.split(WINDOWS):
            loss += model(batch, labels=batch, output_router_logits=False).loss.item() * len(batch)
            count += len(batch)
    model.train()
    return math.exp(loss / count)


def optimizer_of(model):
    """AdamW; norms and embeddings do not decay."""
    decay = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)


def train(directory, steps, train_documents, held_out, checkpoint_seconds):
    """The trained model; what was printed while it learnt is kept in `training.json`."""
    torch.manual_seed(SEED)
    model = MixtralForCausalLM(configuration())
    optimizer = optimizer_of(model)
    stream = np.concatenate(train_documents)
    checkpoint, log, first, seconds = directory / "checkpoint.pt", [], 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log, first, seconds = state["log"], state["step"], state["seconds"]
        print(f"goes on after step {first}", flush=True)
    began, saved = time.process_time() - seconds, time.time()
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        batch = windows(stream, step)
        output = model(batch, labels=batch, output_router_logits=True)
        # The model adds its own balance, weighted; the loss without it is what we want.
        prediction = output.loss - BALANCE * output.aux_loss
        uneven = balance(output.router_logits, model.config)
        (prediction + BALANCE * uneven).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 50 == 0 or done == steps:
            entry = {"step": done, "loss": prediction.item(), "balance": uneven.item(),
                     "cpu_seconds": time.process_time() - began}
            if done % 500 == 0 or done == steps:
                entry["held_out_perplexity"] = perplexity(model, held_out)
            log.append(entry)
            print(json.dumps(entry), flush=True)
        if time.time() - saved > checkpoint_seconds or done == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log, "step": done,
                     "seconds": time.process_time() - began}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            saved = time.time()
    (directory / "training.json").write_text(json.dumps({"seed": SEED, "steps": steps, "log": log}, indent=1) + "\n")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint-seconds", type=int, default=180)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    directory = options.directory
    directory.mkdir(parents=True, exist_ok=True)

    documents = corpus.documents(directory / "corpus")
    learnt = [d for d in documents if not corpus.is_held_out(d[1])]
    held_out = [d for d in documents if corpus.is_held_out(d[1])]
    tokenizer = train_tokenizer(text for _, _, text in learnt)
    tokenizer.save_pretrained(directory)
    learnt, held_out = encode(tokenizer, learnt), encode(tokenizer, held_out)
    print(json.dumps({"train_tokens": sum(map(len, learnt)), "held_out_tokens": sum(map(len, held_out))}), flush=True)
    model = train(directory, options.steps, learnt, held_out, options.checkpoint_seconds)
    model.to(torch.bfloat16).save_pretrained(directory)


if __name__ == "__main__":
    main()
