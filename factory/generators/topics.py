"""A tree of topics that is asked for level by level while its first leaves are in use already.

Every node's subtopics are one request (and its repetitions), asked through a context of the node's own: its answers depend
on the node's path and the run's seed alone, and lie in the journal as all answers do. So the tree is the same on every run
and a run that was killed asks only for what was in flight; nothing else is written down. All nodes that can be expanded are
expanded side by side, and leaves come in an order that the tree alone decides: one of each branch in turn, at every level, so
that the first `n` cover the whole tree. A leaf waits for nothing but the nodes that come before it in that order.

All leaves are equally deep. A node of which no subtopic could be read is a leaf itself. An engine that fails stops the run:
without the node the order would be another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.errors import RecordError, Stopped
from factory.generators.base import Context
from factory.records import content_hash
from factory.sources import Item

# (node, its context, how many subtopics, those that are there already) -> new subtopics
Ask = Callable[["Node", Context, int, Sequence[str]], Awaitable[list[str]]]


@dataclass(eq=False)
class Node:
    """A topic. `breadth` is how many subtopics the model is asked for here and below; `manual` are given beforehand."""

    name: str
    path: tuple[str, ...]
    level: str = ""
    breadth: tuple[int, ...] = ()
    manual: tuple[str, ...] = ()
    origin: str = "root"  # root, model, manual
    children: list[Node] = field(default_factory=list)
    problem: str = ""
    expanded: asyncio.Task[None] | None = None

    def as_json(self) -> dict[str, Any]:
        """As `tree.json` holds it."""
        told: dict[str, Any] = {"name": self.name, "origin": self.origin}
        if self.level:
            told["level"] = self.level
        if self.breadth:
            told["asked"] = self.breadth[0]
            told["children"] = [child.as_json() for child in self.children]
        if self.problem:
            told["problem"] = self.problem
        if self.open:
            told["open"] = True
        return told

    @property
    def open(self) -> bool:
        """Whether its subtopics are still to come."""
        if not self.breadth:
            return False
        task = self.expanded
        return task is None or not task.done() or task.cancelled() or task.exception() is not None


class TopicTree:
    """The trees below some roots. `ask` names the subtopics of a node."""

    def __init__(self, roots: Sequence[Node], ask: Ask, make_context: Callable[[Item], Context]) -> None:
        self.roots, self._ask, self._make_context = roots, ask, make_context
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for root in self.roots:
            self._begin(root)

    def _begin(self, node: Node) -> None:
        if node.breadth and not self._ending:
            node.expanded = asyncio.create_task(self._expand(node))
            self._tasks.add(node.expanded)

    async def _expand(self, node: Node) -> None:
        digest = content_hash("topics", node.path)[:16]
        context = self._make_context(Item(0, digest, lambda: {"path": list(node.path)}))
        try:
            named = await self._ask(node, context, node.breadth[0], node.manual)
        except RecordError as error:
            if not error.final:
                raise Stopped(
                    f"the topics below {' > '.join(node.path)!r} could not be asked for: {error}. Give the same command "
                    "again: it goes on from here."
                ) from error
            named, node.problem = [], str(error)
        missing = node.breadth[0] - len(named)
        if missing and not node.problem:
            node.problem = f"{missing} of {node.breadth[0]} topics were duplicates or could not be read"
        for name, origin in [*((name, "manual") for name in node.manual), *((name, "model") for name in named)]:
            child = Node(name, (*node.path, name), node.level, node.breadth[1:], (), origin)
            node.children.append(child)
            self._begin(child)

    async def leaves(self, nodes: Sequence[Node]) -> AsyncGenerator[Node, None]:
        """The leaves below these nodes, one of each in turn."""
        turns = [self._below(node) for node in nodes]
        while turns:
            for turn in list(turns):
                leaf = await anext(turn, None)
                if leaf is None:
                    turns.remove(turn)
                else:
                    yield leaf

    async def _below(self, node: Node) -> AsyncGenerator[Node, None]:
        if node.expanded is not None:
            await asyncio.shield(node.expanded)
        if not node.children:
            yield node
            return
        async for leaf in self.leaves(node.children):
            yield leaf

    async def finish(self) -> None:
        """Wait for every node that can be expanded. Raises what stopped one."""
        while waiting := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(waiting)
        for task in self._tasks:
            task.result()

    async def end(self) -> None:
        """Drop what is under way."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def nodes(self) -> Iterator[Node]:
        todo = list(self.roots)
        while todo:
            node = todo.pop()
            yield node
            todo += node.children
