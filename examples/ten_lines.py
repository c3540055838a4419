"""Train on a file of pairs, say whether it helped, and search: python examples/ten_lines.py pairs.csv run"""

import sys

import nearfar

file = nearfar.read_pairs(sys.argv[1])
print(file.understood)
result = nearfar.train(file.pairs, out=sys.argv[2], encoder="static")
print(result.verdict, result.comparison)
encoder = nearfar.load_encoder(sys.argv[2])
index = nearfar.build_index(encoder, {str(n): pair.positive for n, pair in enumerate(file.pairs)})
for hit in nearfar.search(index, encoder, [file.pairs[0].query], k=3)[0]:
    print(f"{hit.score:.3f}  {hit.text[:80]!r}")
