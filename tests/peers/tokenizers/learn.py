"""Small vocabularies: byte-pair merges learned from words, and what a SentencePiece model holds."""

import collections
import re
import struct


def byte_alphabet():
    """GPT-2's character for each byte."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in themselves]
    return {**{byte: chr(byte) for byte in themselves},
            **{byte: chr(0x100 + i) for i, byte in enumerate(others)}}


def byte_level_words(texts):
    """Words of texts in GPT-2's alphabet."""
    alphabet = byte_alphabet()
    for text in texts:
        for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text):
            yield "".join(alphabet[byte] for byte in word.encode())


def merges(words, count):
    """The `count` most frequent pairs, one after another, each made one symbol."""
    frequencies = collections.Counter(words)
    splits = {word: list(word) for word, _ in frequencies.most_common(3000)}
    learned = []
    while len(learned) < count:
        pairs = collections.Counter()
        for word, symbols in splits.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += frequencies[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        for symbols in splits.values():
            at = 0
            while at + 1 < len(symbols):
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at:at + 2] = ["".join(best)]
                at += 1
    return learned


def _fields(data):
    """(number, value) of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            value = data[at:at + size]
            at += size
        yield key >> 3, value


def sentencepiece_model(data):
    """The pieces of a tokenizer.model, as (text, score), and its precompiled charsmap."""
    pieces = []
    charsmap = b""
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
        elif number == 3:
            charsmap = dict(_fields(value)).get(2, b"")
    return pieces, charsmap


def merges_of_pieces(pieces):
    """The merges that make a SentencePiece BPE model's pieces, by their scores."""
    ids = {text: i for i, (text, _) in enumerate(pieces)}
    found = []
    for text, score in pieces:
        local = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
        local.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(-score, pair) for pair in local]
    found.sort(key=lambda entry: entry[0])
    return [list(pair) for _, pair in found]
