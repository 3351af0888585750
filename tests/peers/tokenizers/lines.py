"""Mixed lines of text, the same for the same seed: prose, code, many scripts, marks, emoji, control
characters, and bytes that are no UTF-8."""

import random
import unicodedata

SPECIAL_TOKENS = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
                  "<|begin_of_text|>", "<|eot_id|>", "<bos>", "<eos>", "<start_of_turn>",
                  ">>QUESTION<<"]

_SYLLABLES = ("ba be bi co da de den er es est fi ful ga ge ha he ing in ion is ka la le ly ma me ment "
              "mo na ne no of or pre qu ra re ro sa se si st ta te th the ti tion to tra un ve vi").split()

_CODE = [
    "for (int i = 0; i < {n}; ++i) {{ sum += a[i] * {w}[i]; }}",
    "    def {w}(self, {w}=None, *args):\n        return self.{w}['{w}'] + {n}",
    "const {w} = async ({w}) => `${{{w}}}-{n}`;  // {w}",
    "#include <{w}.h>\n#define {W} 0x{n:X}",
    "SELECT {w}, COUNT(*) FROM {w} WHERE {w} >= {n}.{n} GROUP BY 1;",
    '{{"{w}": [{n}, -{n}, 1e{n}], "{w}": null}}',
    "\t\tif ({w} != NULL && !({w}->{w} & ~{n}u))\n\t\t\tgoto {w};",
    "https://{w}.example/{w}?{w}={n}&{w}=%2F#{w}",
    "<div class=\"{w} {w}\">{w}&nbsp;{n}</div>",
    "$\\frac{{{n}}}{{{w}}} \\leq \\sum_{{i=1}}^{{{n}}} {w}_i^{{2}}$",
    "| {w} | {n} |\n|---|---:|\n| **{w}** | _{w}_ |",
    "x{n}={n}.{n}e-{n};y+={n}%{n};",
]

_SPACES = [" ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ",
           "\u00a0", "\u3000", "\u2003", "\u200b", "\u202f", "\u2028", "\u2029", "\u0085",
           "\u000b", "\u000c", "\ufeff"]

_CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'ve", "'m", "'ll", "'LL", "'d", "'\u017f",
                 "\u2019s", "'a", "''", "'"]

_EMOJI = ["\U0001f600", "\u2764\ufe0f", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
          "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea",
          "\U0001f3f4\U000e0067\U000e0062\U000e007f", "1\ufe0f\u20e3", "\u2600",
          "\U0001f9d1\U0001f3ff\u200d\U0001f680", "\u2197\ufe0e"]

# What normal forms, case and charsmaps change.
_COMPATIBLE = ["\ufb01", "\ufb03", "\uff21", "\uff11", "\uff76\uff9e", "\u3392", "\u00bd",
               "\u00b2", "\u2460", "\u2126", "\u212b", "\u0130", "\u0131", "\u00df", "\u1e9e",
               "\u03a3", "\u03c2", "\u01c5", "\u2026", "\u1fb3", "\u0149", "\u1e69", "\uac00",
               "\u1100\u1161\u11a8", "\u0958", "\u0344", "\u3300", "\ufdfa", "\u2474",
               "\U0001d400", "\U0001d7d8", "\u0e33", "\u0f73", "\u2f00", "\uf900"]

_MARKS = ["\u0300", "\u0301", "\u0302", "\u0308", "\u030a", "\u0323", "\u0327", "\u0331", "\u0345",
          "\u05b8", "\u064b", "\u0651", "\u093c", "\u094d", "\u0bd7", "\u0e31", "\u20dd", "\u302a",
          "\u3099"]

_INVALID = [b"\xff", b"\xfe\xff", b"\x80", b"\xbf\xbf", b"\xc3", b"\xc0\xaf", b"\xe6\x97",
            b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80", b"\xe2\x82\xc3\xa9"]

_RANGES = {
    "latin": (0xC0, 0x24F), "greek": (0x386, 0x3CE), "cyrillic": (0x400, 0x45F), "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x620, 0x64A), "devanagari": (0x905, 0x94D), "tamil": (0xB85, 0xBCD), "thai": (0xE01, 0xE3A),
    "georgian": (0x10D0, 0x10F0), "hangul": (0xAC00, 0xD7A3), "jamo": (0x1100, 0x11F9),
    "hiragana": (0x3041, 0x3096), "katakana": (0x30A1, 0x30FA), "han": (0x4E00, 0x9FA5),
    "punctuation": (0x2010, 0x205E), "cjk punctuation": (0x3001, 0x301F), "symbols": (0x2190, 0x2BFF),
    "fullwidth": (0xFF01, 0xFF5E), "digits": (0x660, 0x669), "more digits": (0x966, 0x96F),
    "superscripts": (0x2070, 0x209C), "ancient": (0x10330, 0x1034A), "mathematics": (0x1D400, 0x1D7FF),
    "emoji": (0x1F300, 0x1F6D5), "han extension": (0x20000, 0x2A6DD),
}


def _assigned():
    """The characters that this Python knows, without controls and without the many Han."""
    return [chr(code) for code in range(0x20, 0x30000)
            if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co", "Cc")
            and not unicodedata.name(chr(code), "").startswith("CJK UNIFIED")]


class Mixer:
    """Draws lines."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._assigned = _assigned()
        # Words recur, as in a text, so that merges are learned and used.
        self._words = [self._new_word() for _ in range(800)]

    def _new_word(self):
        count = self._random.choice((1, 1, 2, 2, 2, 3, 3, 4))
        return "".join(self._random.choice(_SYLLABLES) for _ in range(count))

    def _word(self):
        word = self._random.choice(self._words)
        case = self._random.random()
        if case < 0.15:
            return word.capitalize()
        return word.upper() if case < 0.18 else word

    def _number(self):
        return self._random.randrange(10 ** self._random.randrange(1, 9))

    def _prose(self):
        words = []
        for _ in range(self._random.randrange(1, 16)):
            word = self._word()
            chance = self._random.random()
            if chance < 0.05:
                word += self._random.choice(_CONTRACTIONS)
            elif chance < 0.10:
                word = str(self._number())
            elif chance < 0.2:
                word += self._random.choice(",.;:!?)-\"\u2026\u2014")
            words.append(word)
        return " ".join(words)

    def _code(self):
        template = self._random.choice(_CODE)
        parts = template.replace("{w}", "\x00")
        while "\x00" in parts:
            parts = parts.replace("\x00", self._word(), 1)
        return parts.format(n=self._number(), W=self._word().upper())

    def _script(self):
        low, high = _RANGES[self._random.choice(list(_RANGES))]
        words = []
        for _ in range(self._random.randrange(1, 6)):
            characters = (chr(self._random.randint(low, high)) for _ in range(self._random.randrange(1, 9)))
            words.append("".join(c for c in characters if unicodedata.category(c) not in ("Cn", "Cs")))
        return self._random.choice((" ", "", "\u3001")).join(words)

    def _marked(self):
        text = ""
        for _ in range(self._random.randrange(1, 10)):
            text += self._random.choice("aeiounscAEO \u0915\u05d0\u0e01\u304b")
            for _ in range(self._random.choice((0, 1, 1, 2, 3))):
                text += self._random.choice(_MARKS)
        return text

    def _control(self):
        return "".join(chr(self._random.choice((*range(0x20), *range(0x7F, 0xA0), 0x61, 0x20)))
                       for _ in range(self._random.randrange(1, 8)))

    def _some(self, choices):
        return "".join(self._random.choice(choices) for _ in range(self._random.randrange(1, 5)))

    def _any(self):
        return "".join(self._random.choice(self._assigned) for _ in range(self._random.randrange(1, 12)))

    def text(self):
        """A line of one to four parts; it may hold line ends."""
        makers = [self._prose] * 4 + [self._code] * 2 + [self._script] * 2 + [
            self._marked, self._control, self._any, lambda: self._some(_EMOJI),
            lambda: self._some(_COMPATIBLE), lambda: self._some(_SPACES),
            lambda: self._some(SPECIAL_TOKENS)]
        parts = [self._random.choice(makers)() for _ in range(self._random.randrange(1, 5))]
        joint = self._random.choice(("", " ", " ", " ", self._random.choice(_SPACES)))
        return joint.join(parts)

    def line(self):
        """The bytes of a line; one in sixteen is not UTF-8."""
        data = bytearray(self.text().encode())
        if self._random.random() < 1 / 16:
            for _ in range(self._random.randrange(1, 4)):
                at = self._random.randrange(len(data) + 1)
                data[at:at] = self._random.choice(_INVALID)
        return bytes(data)


def every_character():
    """Lines that hold every character, a few on each, between letters and beside spaces."""
    characters = _assigned()
    return ["".join(f"a{character}b {character} " for character in characters[at:at + 20]).encode()
            for at in range(0, len(characters), 20)]


def lines(seed, count):
    mixer = Mixer(seed)
    return [mixer.line() for _ in range(count)]
