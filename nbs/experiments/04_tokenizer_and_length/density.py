"""How much text a token stands for, and how long encoding takes: our chunks beside a byte-level BPE of equal size.

python density.py TRAIN VAL OUT.json   (both files as JSON lines with the column `text`)"""

import json
import sys
import time
from pathlib import Path
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from i3nb.bench.ceiling import device_name
from i3nb.chunks import to_bytes
from i3nb.data.formats import read_file
from i3nb.tokenizer import ChunkTokenizer

SIZES = 512, 1024, 2048, 4096, 8192, 16384  # entries at most


def train_bpe(texts: list, size: int) -> Tokenizer:
    "A byte-level BPE, as GPT-2 has it."
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return bpe


def best_rate(job, n_bytes: int, repeats: int = 5) -> float:
    "MB per second of processor time, the best of some runs."
    took = []
    for _ in range(repeats):
        began = time.process_time()
        job()
        took.append(time.process_time() - began)
    return n_bytes / min(took) / 1e6


def compare(size: int, texts: list, test: list) -> dict:
    "A row: both tokenizers, trained on the same texts with capitals, at most as many entries."
    chunks, bpe = ChunkTokenizer.train(texts, size, cased=True), train_bpe(texts, size)
    n_bytes, test_bytes = (sum(len(to_bytes(text)) for text in some) for some in (texts, test))
    few = texts[::20]
    few_bytes = sum(len(to_bytes(text)) for text in few)
    tokens = dict(chunks=sum(map(len, chunks.encode_batch(test))), bpe=sum(len(e.ids) for e in bpe.encode_batch(test)))
    encode = dict(
        compiled=best_rate(lambda: chunks.encode_batch(texts), n_bytes),
        loop=best_rate(lambda: [chunks.encode_ref(text) for text in few], few_bytes, 2),
        bpe=best_rate(lambda: bpe.encode_batch(texts), n_bytes, 3),
    )
    train = dict(
        chunks=best_rate(lambda: ChunkTokenizer.train(texts, size, cased=True), n_bytes, 3),
        bpe=best_rate(lambda: train_bpe(texts, size), n_bytes, 2),
    )
    sizes = dict(chunks=len(chunks), bpe=bpe.get_vocab_size())
    bytes_a_token = {name: test_bytes / n for name, n in tokens.items()}
    return dict(size=size, entries=sizes, bytes_a_token=bytes_a_token, encode_mb_s=encode, train_mb_s=train)


def main(train: str, val: str, out: str):
    texts, test = ([text for text, _ in read_file(Path(name))] for name in (train, val))
    rows = [compare(size, texts, test) for size in SIZES]
    facts = dict(device=device_name(torch.device('cpu')), texts=len(texts), tests=len(test))
    Path(out).write_text(json.dumps(dict(**facts, rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
