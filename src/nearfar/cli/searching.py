"""`nearfar index` and `nearfar search`: texts or pictures made searchable, and found. Heavy imports are inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from nearfar.cli.commands import is_table, say
from nearfar.data.text import shorten
from nearfar.errors import BadConfig, BadInput, Mismatch
from nearfar.types import Picture


def index(model: str, corpus: Path, out: Path, *, kind: str, as_json: bool) -> int:
    """`nearfar index`."""
    if kind not in ("exact", "approximate", "lexical"):
        raise BadConfig(f"--kind {kind}: expected exact or approximate (or the model bm25 for a lexical index).")
    from nearfar.cli import pictures
    from nearfar.cli.progress import shown
    from nearfar.retrieval import build_index

    documents = pictures.read_documents(corpus)
    lexical = model == "bm25" or kind == "lexical"
    encoder, update, broken = None, None, []
    with shown() as progress:
        if lexical:
            made = build_index(None, documents, kind="lexical")
        else:
            from nearfar.encoders import load_encoder

            # an absolute path: the index is searched from anywhere
            name = str(Path(model).resolve()) if Path(model).exists() else model
            encoder = load_encoder(model, progress=progress)
            found = pictures.index_documents(documents, encoder, out, kind=kind, name=name, progress=progress)
            made, update, broken = found.index, found.update, found.broken
    made.save(out)
    told = "lexical" if lexical else kind
    if as_json:
        beside: dict[str, Any] = {"updated": update._asdict()} if update else {}
        if broken:
            beside["broken"] = [{"picture": str(each.picture), "why": each.why} for each in broken]
        say({"index": str(out), "kind": told, "documents": len(made), **beside})
    else:
        of_pictures = bool(documents) and isinstance(next(iter(documents.values())), Picture)
        print(
            f"{out}: {len(made):,} {'pictures' if of_pictures else 'documents'}, {told}"
            + (f" ({pictures.tell_update(update)})" if update else "")
        )
        print(
            "\n".join(
                [*pictures.tell_broken(broken), f"Next: nearfar search {quote(str(out))} {pictures.query_words(encoder)}"]
            )
        )
    return 0


def search(
    folder: Path, queries: Sequence[str], *, k: int, model: str | None, images: Sequence[Path], html: Path | None, as_json: bool
) -> int:
    """`nearfar search`."""
    from nearfar.cli import pictures

    queries = [*queries, *pictures.read_query_pictures(images)]
    if not queries or not all(query.strip() for query in queries):
        raise BadInput("QUERIES: found an empty query. Give what to look for: nearfar search INDEX 'your query'.")
    from nearfar.index import LexicalIndex, open_index
    from nearfar.retrieval import search as search_index

    found = open_index(folder)
    if isinstance(found, LexicalIndex):
        encoder = None
    else:
        from nearfar.encoders import load_encoder

        try:
            encoder = load_encoder(model or found.model.name, dim=found.dim if is_table(model or found.model.name) else None)
        except BadInput as error:
            raise Mismatch(
                f"{folder}: its model cannot be opened. {error} If it lies elsewhere now: --model FOLDER."
            ) from error
    results = search_index(found, encoder, queries, k)
    if html:
        pictures.write_page(html, queries, results, folder)
    if as_json:
        told = [
            {"query": query, "results": [{"id": r.id, "score": r.score, **pictures.told_document(r.text)} for r in hits]}
            for query, hits in zip(queries, results, strict=True)
        ]
        say({"searches": told})
        return 0
    for query, hits in zip(queries, results, strict=True):
        if len(queries) > 1:
            print(f"\n> {query}")
        for place, result in enumerate(hits, 1):
            print(f"{place:>3}. {result.score:6.3f}  {result.id}")
            print(f"             {result.text.file if isinstance(result.text, Picture) else shorten(result.text)}")
        if not hits:
            print("  nothing found")
    if html:
        print(f"\n{html}: the same with pictures")
    return 0
