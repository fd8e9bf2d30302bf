"""What an epoch's statistics say of each layer, for people."""

from collections.abc import Mapping

Layers = Mapping[str, Mapping[str, float]]
"""Values by the path of a layer, as ``layer_statistics`` returns them."""

_COLUMNS = (
    ("weight scale", "weight_scale", "{:.3g}"),
    ("clipped", "weight_clipped", "{:.2%}"),
    ("codes used", "weight_codes_used", "{:.0%}"),
    ("flipped", "weight_codes_flipped", "{:.2%}"),
    ("input scale", "input_scale", "{:.3g}"),
    ("clipped", "input_clipped", "{:.2%}"),
    ("codes used", "input_codes_used", "{:.0%}"),
)


def layer_table(layers: Layers) -> str:
    """Returns a line a layer: scale, share of clipped values, share of the codes in use, for weights and inputs.

    ``flipped`` is the share of the weight codes that changed in the epoch. What a layer has not is left empty.
    """
    rows = [("layer", *(title for title, _, _ in _COLUMNS))]
    for path, values in layers.items():
        cells = (form.format(values[name]).replace("%", " %") if name in values else "" for _, name, form in _COLUMNS)
        rows.append((path or "(the model)", *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def most_clipped(layers: Layers) -> str:
    """Returns the largest share of a layer's weights or inputs that is clipped, and its path; "" where none is."""
    shares = (
        (values[name], path) for path, values in layers.items() for name in ("weight_clipped", "input_clipped")
        if name in values
    )  # fmt: skip
    share, path = max(shares, default=(0.0, ""))
    return f"at most {100 * share:.1f} % clipped ({path or 'the model'})" if share else ""
