#!/usr/bin/env python3
"""A small SentencePiece unigram tokenizer in the form that T5's has as tokenizer.json, and golden ids.

The ids are SentencePiece's own, with </s> after them, so that they check the conversion, too.

usage: make_unigram.py OUT_DIR        (needs sentencepiece, tokenizers, protobuf)
"""
import base64, json, pathlib, sys
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TEXT = """Weights lie on the disk, are read just before they are needed, and leave memory in the order that costs the fewest reads.
The quick brown fox jumps over the lazy dog; then it reads 13 pages of a book about memory.
translate English to German: How old are you? Wie alt bist du? Ich bin zwölf Jahre alt.
summarize: a machine with little memory runs a large model, since the order in which it uses its weights is known.
A café in Köln serves naïve guests; ½ of them pay 2.50 for tea, the others nothing at all."""
CASES = ["translate English to German: How old are you?", "The memory of the fox.", "  two  spaces and\ttab ", "naïve café ½ ﬁne",
         "unseen: 東京 😀", "", "one</s>two", "ends.</s>"]

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
corpus = out / "corpus.txt"
corpus.write_text("\n".join(TEXT.splitlines() * 20))
spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(out / "spm"), model_type="unigram", vocab_size=110, pad_id=0, eos_id=1,
                               unk_id=2, bos_id=-1, character_coverage=1.0, num_threads=1)
corpus.unlink()
proto = pb.ModelProto()
proto.ParseFromString((out / "spm.model").read_bytes())
pieces = [(p.piece, p.score) for p in proto.pieces]
tk = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
tk.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Strip(left=False, right=True),
                                      normalizers.Replace(__import__("tokenizers").Regex(" {2,}"), "\u2581")])
tk.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
tk.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
tk.add_special_tokens([AddedToken(t, normalized=False) for t in ("<pad>", "</s>", "<unk>")])
tk.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
tk.save(str(out / "tokenizer.json"), pretty=False)
(out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}) + "\n")
sp = spm.SentencePieceProcessor(model_file=str(out / "spm.model"))
cases = []
for text in CASES:
    # A special token in a text is one by itself, as in Transformers.
    parts = text.split("</s>")
    ids = []
    for i, part in enumerate(parts):
        ids += sp.encode(part) + ([1] if i + 1 < len(parts) else [])
    cases.append({"text": text, "ids": ids + [1], "decoded": sp.decode([i for i in ids if i > 2])})
    got = tk.encode(text).ids
    print(got == ids + [1], repr(text), ids, got if got != ids + [1] else "")
(out / "goldens.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
for f in ("spm.model", "spm.vocab"):
    (out / f).unlink()
