"""VMs: list, one, create, change, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from jitsu_protocol.changes import changes_for, expectations
from jitsu_protocol.messages import Change
from jitsu_protocol.model.errors import Conflict, NotFound
from jitsu_protocol.model.export import keys_of
from jitsu_protocol.model.vm import VM, VM_ROOT, InvalidVm, from_tree, to_tree
from jitsu_protocol.rows import below
from jitsu_web.rules.cursor import page_of
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.rules.written import vm_of, with_stop_mode
from jitsu_web.wires.api import Api, TheApi, TheCaller
from jitsu_web.wires.asking import conflict_is_a_precondition
from jitsu_web.wires.shapes import AppliedShape, AskedChangedVm, AskedNewVm, AskedVm, OneVmShape, VmPageShape

router = APIRouter(prefix="/vms", tags=["vms"])

IfMatch = Annotated[str, Header(max_length=2000, description="Commits (ETags) since which it must not have changed.")]
Force = Annotated[bool, Query(description="Even if a hypervisor says that it could not run it.")]


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
    # As it is: to validate what this process itself has made would take most of the time for two thousand VMs.
    return JSONResponse({"items": [api.live.vm(uuid) for uuid in uuids], "next": following})


@router.post("", status_code=201)
async def create_vm(api: TheApi, caller: TheCaller, asked: AskedNewVm, force: Force = False) -> AppliedShape:
    """Create a VM."""
    vm = vm_of(asked.name, asked.keys, api.defaults)
    try:
        api.live.board.find(vm.name)
    except NotFound:
        pass
    else:
        raise HttpProblem(409, f"there is a VM {vm.name} already", f"PUT /api/v1/vms/{vm.name} replaces it")
    return await _commit(api, caller, vm, {}, asked.message or f"Create {vm.name}", force=force)


@router.get("/{name}", response_model=OneVmShape)
async def read_vm(api: TheApi, _: TheCaller, name: str, response: Response) -> Any:
    """Return everything about a VM; `name` is its name, its UUID or one of its DNS names."""
    vm = api.live.board.find(name)
    if api.live.board.commit:
        response.headers["ETag"] = f'"{api.live.board.commit}"'
    return one(api, vm.uuid)


@router.put("/{name}")
async def replace_vm(
    api: TheApi, caller: TheCaller, name: str, asked: AskedVm, if_match: IfMatch = "", force: Force = False
) -> AppliedShape:
    """Make a VM what these keys say, and nothing else; one that is not there is created."""
    try:
        found = api.live.board.find(name)
    except NotFound:
        if if_match:
            raise HttpProblem(412, f"there is no VM {name}", "leave If-Match out to create it") from None
        vm = vm_of(name, asked.keys, api.defaults)
        return await _commit(api, caller, vm, {}, asked.message or f"Create {vm.name}", force=force)
    own = await _leaves(api, found.path, if_match)
    vm = vm_of(found.name, asked.keys, api.defaults, found.uuid)
    return await _commit(api, caller, vm, own, asked.message or f"Change {vm.name}", force=force)


@router.patch("/{name}")
async def change_vm(
    api: TheApi, caller: TheCaller, name: str, asked: AskedChangedVm, if_match: IfMatch = "", force: Force = False
) -> AppliedShape:
    """Change some keys of a VM; a key with null has its default again."""
    found = api.live.board.find(name)
    own = await _leaves(api, found.path, if_match)
    try:  # the board may be older than what was just read, and would bring back what others have changed since
        model = from_tree(found.uuid, below(own, VM_ROOT).get(found.uuid, {}))
    except InvalidVm:
        hint = f"PUT /api/v1/vms/{found.name}"
        raise HttpProblem(409, f"the configuration of {found.name} cannot be used", hint) from None
    keys: dict[str, Any] = {**keys_of(model), **asked.keys}
    keys = {key: value for key, value in keys.items() if value is not None}
    vm = vm_of(found.name, keys, api.defaults, found.uuid)
    return await _commit(api, caller, vm, own, asked.message or f"Change {vm.name}", force=force)


@router.delete("/{name}")
async def delete_vm(api: TheApi, caller: TheCaller, name: str, if_match: IfMatch = "") -> AppliedShape:
    """Remove a VM from the configuration; if it runs, it is stopped."""
    found = api.live.board.find(name)
    own = await _leaves(api, found.path, if_match)
    changes = [Change(path=path, value=None, old=value) for path, value in own.items()]
    if not changes:
        raise NotFound(f"{found.name} is not configured any more")
    try:
        applied = await api.asker.apply(caller, changes, f"Remove {found.name}", expect=expectations(changes))
    except Conflict as error:
        raise conflict_is_a_precondition(error) from None
    return AppliedShape(commit=applied.commit, changed=applied.changed)


async def _leaves(api: Api, path: str, if_match: str) -> dict[str, str]:
    """Return the leaves of a VM as they are now; raises HttpProblem if If-Match is about others.

    They are read before If-Match is checked: a commit before that fails the check, and one after it the change itself.
    """
    own = (await api.asker.leaves(path)).leaves
    await api.asker.check_match(if_match, path)
    return own


async def _commit(
    api: Api, caller: TheCaller, vm: VM, own: dict[str, str], message: str, *, force: bool
) -> AppliedShape:
    """Commit what makes the leaves of a VM, which are `own` now, describe it."""
    place = f"{VM_ROOT}/{vm.uuid}/"
    leaves = {path.removeprefix(place): value for path, value in to_tree(vm).items()}
    if not force:
        checked = await api.asker.check(vm.host, vm.uuid, leaves)
        before = own.get(place + "config/stop_mode/0", own.get(place + "stop_mode", "destroy" if own else ""))
        vm = with_stop_mode(vm, writes_to_disk=checked.writes_to_disk.get(vm.uuid, False), before=before)
    changes = changes_for([vm], own)
    if not changes:
        return AppliedShape(commit=api.live.board.commit, changed=0)
    try:
        applied = await api.asker.apply(caller, changes, message, expect=expectations(changes))
    except Conflict as error:
        raise conflict_is_a_precondition(error) from None
    return AppliedShape(commit=applied.commit, changed=applied.changed)
