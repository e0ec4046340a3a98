"""The golden atlas: pictures of Fibonacci sizes that tile one rectangle without gap or overlap.

After Captain Cinema's golden rectangles (arXiv 2507.18634, figure 3). How they are laid out is
inferred: each next square is attached right, below, left, above in turn (shared design
`golden-memory-and-keyframes.md`, section 2.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AtlasTile:
    """Where one picture lies, its upper left corner first."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Atlas:
    """A canvas and its tiles, the largest first: they are the places of pictures, best first."""

    height: int
    width: int
    tiles: tuple[AtlasTile, ...]


def golden_squares(count: int) -> Atlas:
    """The tiling by `count` squares of Fibonacci sides, in units of the smallest one.

    F(count + 1) wide and F(count) high, or turned by a right angle. Raises ValueError for none.
    """
    if count < 1:
        raise ValueError(f"an atlas holds 1 picture or more, got {count}")
    tiles = [AtlasTile(0, 0, 1, 1)]
    left, top, right, bottom = 0, 0, 1, 1
    for number in range(count - 1):
        width, height = right - left, bottom - top
        if number % 4 == 0:
            tile = AtlasTile(right, top, height, height)
            right += height
        elif number % 4 == 1:
            tile = AtlasTile(left, bottom, width, width)
            bottom += width
        elif number % 4 == 2:
            tile = AtlasTile(left - height, top, height, height)
            left -= height
        else:
            tile = AtlasTile(left, top - width, width, width)
            top -= width
        tiles.append(tile)
    moved = (replace(tile, left=tile.left - left, top=tile.top - top) for tile in reversed(tiles))
    return Atlas(bottom - top, right - left, tuple(moved))


def plan_atlas(count: int, tile_height: int, tile_width: int, unit: int = 16) -> Atlas:
    """The tiling in pixels, its squares stretched to the shape of the largest tile.

    The largest tile has about, and at most, `tile_height` x `tile_width`; the sides of the canvas
    are multiples of `unit`, the pixels of a token, and so are all edges where the smallest tile has
    as many. Of the two ways to turn the tiling it takes the one whose canvas is nearer to a square,
    which image models know best (our choice). Raises ValueError where the smallest tile would have
    no pixel.
    """
    squares = golden_squares(count)
    turned = _turned(squares)
    if _oblong(turned, tile_height, tile_width) < _oblong(squares, tile_height, tile_width):
        squares = turned
    largest = squares.tiles[0].width
    rows = _edges(squares.height, largest, tile_height, unit)
    columns = _edges(squares.width, largest, tile_width, unit)
    tiles = tuple(
        AtlasTile(
            left=columns[tile.left],
            top=rows[tile.top],
            width=columns[tile.left + tile.width] - columns[tile.left],
            height=rows[tile.top + tile.height] - rows[tile.top],
        )
        for tile in squares.tiles
    )
    return Atlas(rows[-1], columns[-1], tiles)


def _turned(atlas: Atlas) -> Atlas:
    """The same with rows and columns exchanged."""
    tiles = tuple(AtlasTile(tile.top, tile.left, tile.height, tile.width) for tile in atlas.tiles)
    return Atlas(atlas.width, atlas.height, tiles)


def _oblong(squares: Atlas, tile_height: int, tile_width: int) -> float:
    """Long / short side of the stretched canvas."""
    sides = squares.width * tile_width, squares.height * tile_height
    return max(sides) / min(sides)


def _edges(squares: int, largest: int, pixels: int, unit: int) -> list[int]:
    """The pixel at each of the edges 0 to `squares` of an axis whose largest tile has `pixels`.

    Where a square has fewer pixels than `unit`, the axis is rounded as a whole and squares differ
    by a pixel.
    """
    step = pixels // largest
    if step >= unit:
        step -= step % unit
        return [step * edge for edge in range(squares + 1)]
    whole = max(1, squares * pixels // (largest * unit)) * unit
    if whole < squares:
        raise ValueError(
            f"an atlas {squares} x its smallest tile needs as many pixels, in steps of {unit}, got "
            f"{whole}: use fewer pictures"
        )
    return [edge * whole // squares for edge in range(squares + 1)]
