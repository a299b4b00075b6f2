"""VMs: list, one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from jitsu_protocol.model.export import keys_of
from jitsu_web.rules.cursor import page_of
from jitsu_web.wires.api import Api, TheApi, TheCaller
from jitsu_web.wires.shapes import OneVmShape, VmPageShape

router = APIRouter(prefix="/vms", tags=["vms"])


def one(api: Api, uuid: str) -> dict[str, Any]:
    """Return everything about one VM."""
    board = api.live.board
    status, model = board.status(uuid), board.model(uuid)
    return {
        **api.live.vm(uuid),
        "status": None if status is None else status.model_dump(mode="json"),
        "configuration": None if model is None else keys_of(model),
    }


@router.get("", response_model=VmPageShape)
async def list_vms(
    api: TheApi,
    _: TheCaller,
    cursor: Annotated[str, Query(max_length=600)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    state: Annotated[str, Query(max_length=200)] = "",
    name: Annotated[str, Query(max_length=255)] = "",
) -> Any:
    """List VMs by name: in these states (comma-separated), with this name or one that begins so (`web*`)."""
    board = api.live.board
    uuids, following = page_of(board, cursor, limit, states=frozenset(filter(None, state.split(","))), name=name)
    return {"items": [api.live.vm(uuid) for uuid in uuids], "next": following}


@router.get("/{name}", response_model=OneVmShape)
async def read_vm(api: TheApi, _: TheCaller, name: str, response: Response) -> Any:
    """Return everything about a VM; `name` is its name, its UUID or one of its DNS names."""
    vm = api.live.board.find(name)
    response.headers["ETag"] = f'"{api.live.board.commit}"'
    return one(api, vm.uuid)
