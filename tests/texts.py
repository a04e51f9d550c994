"""Texts that tokenizers get wrong: every one valid Unicode."""

from __future__ import annotations

from typing import Final

NASTY_TEXTS: Final = (
    "",
    " ",
    "  ",
    "\n",
    "Hello world",
    " leading and trailing ",
    "a  b   c    d",
    "x" + " " * 23 + "y",
    "x" + " " * 24 + "y",
    "x" + " " * 25 + "y",
    "x" + " " * 61 + "y",
    "    four spaces\n        eight spaces\n\ttab\t\ttwo tabs",
    "trailing spaces   \n\n   \n",
    "we'll, they're; I'd isn't 'quoted' 's 'S 'LL",
    "1234567890 1.5e-10 ½ ² ٣",
    "e\u0301 \u00e9 a\u030a\u0323 \u1100\u1161\u11a8 \u212b \ufb01",  # NFC composes all but the ligature
    "nai\u0308ve cafe\u0301  \u0301 leading mark",
    "[CLS] inside [SEP] text",
    "[MASK]",
    "fill the   [MASK] here",
    "fill the\n[MASK]\n[MASK] here",
    "[mask] [ MASK ] [UNK][PAD]",
    "<|endoftext|><|padding|> |||IP_ADDRESS||| |||EMAIL_ADDRESS|||me|||PHONE_NUMBER|||",
    "[unused0] [unused6][unused82]",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\x00 \x01\x1f\x7f \x85 \xa0 \u200b \u2028\u2029 \ufeff \ufffd \uffff \U0010ffff",
    "\r\n \r \v \f",
    "\u3000\u3000full-width\u3000space \u2003\u2003em",
    "日本語の文章です。中文句子\uff0c한국어 문장",
    "שלום עולם مرحبا بالعالم नमस्ते ไทย",
    "Ελληνικά Русский żółw smörgåsbord ﬁ ǅ ß ẞ İ \u0131",
    "int main(void) { return a[i++] << 2; }  // comment",
    "\u0344 \u0958 \u2126 \u1e9b\u0323",  # canonical decompositions that do not compose back
    "Z\u0351\u036b\u0343a\u0323\u0301lgo",
    "a" * 200,
    "\u0130\u0307" * 20,
)
