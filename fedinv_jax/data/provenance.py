"""How a file was read, as data and for people."""

from typing import NamedTuple

from fedinv_jax.data import lines, values
from fedinv_jax.data.sniffing import Layout


class Source(NamedTuple):
    """How the file of some interactions was read.

    Attributes:
        file: its name.
        layout: separator, header, columns, first row.
        num_rows: of the file.
        num_interactions: without repeated pairs and labels of 0.
        num_users: distinct users of the rows.
        num_items: distinct items of the rows.
        span: first and last time as a date, or as the number that it is; None: no times.
        warnings: what is odd.
    """

    file: str
    layout: Layout
    num_rows: int
    num_interactions: int
    num_users: int
    num_items: int
    span: tuple[str, str] | None
    warnings: tuple[str, ...] = ()

    @property
    def has_ratings(self) -> bool:
        """Whether the file has ratings or labels."""
        return not {'rating', 'label'}.isdisjoint(self.layout.columns)


def describe(source: Source) -> list[tuple[str, str]]:
    """How a file was read, for people: pairs of a word and a text.

    Args:
        source: what was read.
    """
    layout = source.layout
    span = 'no times: the order of the rows counts'
    if source.span is not None:
        span = f'times {" to ".join(source.span)}'
    columns = ', '.join(
        f'{kind} = column {index + 1}'
        + (f' ({values.show(layout.names[index])})' if layout.names else '')
        for kind, index in layout.columns.items()
    )
    is_json = layout.separator == lines.JSON
    notes = ['JSON lines' if is_json else f'separated by {layout.separator}']
    notes.append('from its keys' if is_json else f'from {layout.named_by}')
    if unread := set(range(layout.width)) - set(layout.columns.values()):
        names = layout.names or [f'column {index + 1}' for index in range(layout.width)]
        notes.append(
            f'not read: {values.show(", ".join(names[index] for index in sorted(unread)))}'
        )
    if layout.num_comments:
        notes.append(f'{layout.num_comments} lines skipped as comments')
    rows = f'{source.num_rows} rows'
    if source.num_interactions < source.num_rows:
        rows += f' of {source.num_interactions} interactions'
    row = ', '.join(
        f'{kind} {values.show(layout.first_row[index])}' for kind, index in layout.columns.items()
    )
    return [
        (
            'file',
            f'{source.file}: {rows}, {source.num_users} users, {source.num_items} items, {span}',
        ),
        ('columns', f'{columns}; {"; ".join(notes)}'),
        ('first row', row),
        *[('warning', text) for text in source.warnings],
    ]
