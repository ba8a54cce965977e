"""A reader of the bytes that the page gets, by their description alone: loops over numbers, no code of manymask."""

import struct

TABLE_TYPES = {"id": "I", "score": "H", "class": "B", "flags": "B", "area": "I", "x": "H", "y": "H"}


def read_table(content):
    """The header (number, revision, shift), and each column as a list."""
    assert content[:4] == b"MMT1"
    number, revision, shift = struct.unpack_from("<3I", content, 4)
    columns, place = {}, 16
    for name, kind in TABLE_TYPES.items():
        columns[name] = list(struct.unpack_from(f"<{number}{kind}", content, place))
        place += number * struct.calcsize(kind)
    assert place == len(content)
    return (number, revision, shift), columns


def read_block(content):
    """For each object its id, its layer and the set of its pixels (x, y), in the order of the file."""
    assert content[:4] == b"MMB1"
    number, wide, total = struct.unpack_from("<3I", content, 4)
    place = 16

    def take(count, kind):
        nonlocal place
        values = list(struct.unpack_from(f"<{count}{kind}", content, place))
        size = count * struct.calcsize(kind)
        place += size
        padding = content[place : place + (-size) % 4]
        assert padding == bytes(len(padding))
        place += len(padding)
        return values

    ids, layers, x0, y0 = take(number, "I"), take(number, "B"), take(number, "i"), take(number, "i")
    columns, in_column = take(number, "HHI"[wide]), take(total, "BBI"[wide])
    assert sum(columns) == total
    starts, ends = (take(sum(in_column), "bhi"[wide]) for _ in range(2))
    assert place == len(content)
    objects, column, run = [], 0, 0
    for index in range(number):
        start = end = y0[index]
        pixels = set()
        for x in range(x0[index], x0[index] + columns[index]):
            for _ in range(in_column[column]):
                start, end, run = start + starts[run], end + ends[run], run + 1
                assert start < end
                pixels |= {(x, y) for y in range(start, end)}
            column += 1
        objects.append((ids[index], layers[index], pixels))
    return objects
