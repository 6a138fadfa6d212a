"""Clients that take their time do not keep a connection for ever. The limits are shortened; the server is the real one,
in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from modelwright_server import http11
from modelwright_server.http11 import Answer, HttpServer, Request, json_response

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http11, "_SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(http11, "_ARRIVAL_SECONDS", 0.2)
    monkeypatch.setattr(http11, "_UNREAD_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(http11, "_LINGER_SECONDS", 0.2)


def talk(conversation: Conversation, *, keep_alive_seconds: float = 60.0, answer_bytes: int = 10) -> bytes:
    """What the conversation gives, after which the server must have no connection left."""

    def handler(_: Request, answer: Answer) -> None:
        answer(json_response("x" * answer_bytes))

    async def whole() -> bytes:
        server = HttpServer(handler, keep_alive_seconds=keep_alive_seconds)
        port = await server.listen(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = await asyncio.wait_for(conversation(reader, writer), 20)
        async with asyncio.timeout(20):
            while server.connections:
                await asyncio.sleep(0.01)
        writer.close()
        await server.end(1.0)
        return said

    return uvloop.run(whole())


def test_an_idle_connection_is_closed_at_last() -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.read()

    assert talk(conversation, keep_alive_seconds=0.2).startswith(b"HTTP/1.1 200 OK")


def test_by_default_it_stays_longer_than_pools_of_clients_keep_theirs() -> None:
    assert HttpServer(lambda *_: None).keep_alive_seconds >= 75


@pytest.mark.parametrize("begin", [b"GET /", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"])
def test_a_request_that_trickles_is_told_to_be_too_slow(begin: bytes) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(begin)
        answer = asyncio.ensure_future(reader.read())
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        return await answer

    said = talk(conversation)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said


def test_a_client_that_does_not_read_its_answer_is_left() -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return b""

    talk(conversation, answer_bytes=64 * 1024 * 1024)


def test_a_refused_client_that_stays_is_left() -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"NONSENSE\r\n\r\n")
        said = await reader.read()
        await asyncio.sleep(0)
        return said

    assert talk(conversation).startswith(b"HTTP/1.1 400 ")
