"""Writes 20,000 pseudo-random tokens below 84 as uint16: tokens.py FILE"""

import array
import sys

state = 2463534242
tokens = array.array("H")
for _ in range(20_000):  # xorshift32
    state ^= state << 13 & 0xFFFFFFFF
    state ^= state >> 17
    state ^= state << 5 & 0xFFFFFFFF
    tokens.append(state % 84)
if sys.byteorder == "big":
    tokens.byteswap()
with open(sys.argv[1], "wb") as file:
    tokens.tofile(file)
