"""Bar charts as SVG, written by hand: one chart a file, bars in two parts or one, and nothing to install."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 760, 170, 90, 18, 8, 62
COLOURS = ("#3b6ea5", "#a9c5e2")


def bars(path, title, unit, parts, values):
    """Writes a chart. `parts` are the names of a bar's parts, `values` pairs (name of the bar, its parts)."""
    longest = max(sum(numbers) for _, numbers in values) or 1
    height = TOP + len(values) * (BAR + GAP) + 16
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
             'font-family="sans-serif" font-size="12">' % (WIDTH, height, WIDTH, height),
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="12" y="20" font-size="15" font-weight="bold">%s</text>' % escape(title),
             '<text x="12" y="38" fill="#555">%s</text>' % escape(unit)]
    if len(parts) > 1:
        for index, part in enumerate(parts):
            left = WIDTH - RIGHT - 90 * (len(parts) - index)
            lines.append('<rect x="%d" y="28" width="11" height="11" fill="%s"/>' % (left, COLOURS[index]))
            lines.append('<text x="%d" y="38">%s</text>' % (left + 16, escape(part)))
    for row, (name, numbers) in enumerate(values):
        top, left = TOP + row * (BAR + GAP), LEFT
        lines.append('<text x="%d" y="%d" text-anchor="end">%s</text>' % (LEFT - 8, top + 13, escape(name)))
        for index, number in enumerate(numbers):
            width = max(number, 0) / longest * (WIDTH - LEFT - RIGHT)
            lines.append('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'
                         % (left, top, width, BAR, COLOURS[index % len(COLOURS)]))
            left += width
        lines.append('<text x="%.1f" y="%d">%s</text>' % (left + 6, top + 13, short(sum(numbers))))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines + ["</svg>", ""]))


def short(number):
    """A number with three digits that matter."""
    return "%.0f" % number if abs(number) >= 100 else "%.1f" % number if abs(number) >= 10 else "%.2f" % number
