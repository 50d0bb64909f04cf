"""Fine-tuning jobs, their events and checkpoints, permissions of checkpoints, and graders."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.call import Call, Route
from simulator.collection import Object, make_id, now, page_of
from simulator.generation import work_seconds
from simulator.store import FineTuningJob

TRAINING_SECONDS = 0.3
_ACTIVE = ("validating_files", "queued", "running", "paused")


class _Create(msgspec.Struct, frozen=True):
    model: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    hyperparameters: Object | None = None
    method: Object | None = None
    integrations: list[Object] | None = None
    metadata: dict[str, str] | None = None


class _Permission(msgspec.Struct, frozen=True):
    project_ids: list[str] = []


class _Grade(msgspec.Struct, frozen=True):
    grader: Object | None = None
    model_sample: str = ""
    item: Any = None


def create(call: Call) -> Answer:
    request = call.decode(_Create, required=("model", "training_file"))
    for file_id in (request.training_file, request.validation_file):
        if file_id is not None:
            call.store.files.get(file_id)
    job = FineTuningJob(
        {
            "id": make_id("ftjob-"),
            "object": "fine_tuning.job",
            "created_at": now(),
            "error": None,
            "estimated_finish": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": request.hyperparameters or {"n_epochs": 3, "batch_size": 1},
            "integrations": request.integrations or [],
            "metadata": request.metadata,
            "method": request.method,
            "model": request.model,
            "organization_id": None,
            "result_files": [],
            "seed": request.seed or 0,
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": request.training_file,
            "validation_file": request.validation_file,
        }
    )
    _note(job, "Created fine-tune.")
    _train(call, job, request)
    return answer_json(call.store.fine_tuning.add(job).object)


def _train(call: Call, job: FineTuningJob, request: _Create) -> None:
    def finish() -> None:
        if job.object["status"] in ("validating_files", "running"):
            _succeed(call, job, request)

    call.store.work.later(work_seconds(request.metadata, TRAINING_SECONDS), finish)


def _succeed(call: Call, job: FineTuningJob, request: _Create) -> None:
    trained = call.store.files.get(request.training_file or "").content.size // 4
    name = f"{request.model}.ft-{job.object['id'][-8:]}" + (f"-{request.suffix}" if request.suffix else "")
    job.object.update(status="succeeded", finished_at=now(), fine_tuned_model=name, trained_tokens=trained)
    job.checkpoints.append(
        {
            "id": make_id("ftckpt_"),
            "object": "fine_tuning.job.checkpoint",
            "created_at": now(),
            "fine_tuned_model_checkpoint": f"{name}:ckpt-step-90",
            "fine_tuning_job_id": job.object["id"],
            "metrics": {"step": 90, "train_loss": 0.31},
            "step_number": 90,
        }
    )
    _note(job, "Training completed.")


def _note(job: FineTuningJob, message: str) -> None:
    event = {"id": make_id("ftevent-"), "object": "fine_tuning.job.event", "created_at": now(), "level": "info"}
    job.events.append({**event, "message": message, "type": "message", "data": None})


def list_all(call: Call) -> Answer:
    return answer_json(call.store.fine_tuning.page(call.query))


def get(call: Call) -> Answer:
    return answer_json(call.store.fine_tuning.get(call.id).object)


def _change(call: Call, allowed: tuple[str, ...], status: str) -> Answer:
    job = call.store.fine_tuning.get(call.id)
    if job.object["status"] not in allowed:
        raise errors.invalid_request(f"Job has status '{job.object['status']}', it cannot become '{status}'.")
    job.object["status"] = status
    _note(job, f"The job is {status}.")
    return answer_json(job.object)


def cancel(call: Call) -> Answer:
    return _change(call, _ACTIVE, "cancelled")


def pause(call: Call) -> Answer:
    return _change(call, ("validating_files", "running"), "paused")


def resume(call: Call) -> Answer:
    answer = _change(call, ("paused",), "running")
    job = call.store.fine_tuning.get(call.id)
    _train(call, job, msgspec.convert(job.object, _Create))
    return answer


def list_events(call: Call) -> Answer:
    return answer_json(page_of(call.store.fine_tuning.get(call.id).events, call.query))


def list_checkpoints(call: Call) -> Answer:
    return answer_json(page_of(call.store.fine_tuning.get(call.id).checkpoints, call.query))


def copy_checkpoint(call: Call) -> Answer:
    """Azure-only: copy a checkpoint to another resource. GET returns the status of the copy."""
    checkpoint = next(
        (made for made in call.store.fine_tuning.get(call.id).checkpoints if made["id"] == call.ids[1]), None
    )
    if checkpoint is None:
        raise errors.object_not_found(f"No checkpoint found with id '{call.ids[1]}'.")
    name = checkpoint["fine_tuned_model_checkpoint"]
    return answer_json({"checkpointId": call.ids[1], "checkpointedModelName": name, "status": "Completed"})


def delete(call: Call) -> Answer:
    call.store.fine_tuning.remove(call.id)
    return answer_json({"id": call.id, "object": "fine_tuning.job", "deleted": True})


def permit(call: Call) -> Answer:
    _check_checkpoint(call)
    made = [_permission(project) for project in call.decode(_Permission).project_ids]
    call.store.permissions.setdefault(call.id, []).extend(made)
    ends = {"first_id": made[0]["id"] if made else None, "last_id": made[-1]["id"] if made else None}
    return answer_json({"object": "list", "data": made, **ends, "has_more": False})


def list_permissions(call: Call) -> Answer:
    _check_checkpoint(call)
    return answer_json(page_of(call.store.permissions.get(call.id, []), call.query))


def forbid(call: Call) -> Answer:
    _check_checkpoint(call)
    kept = call.store.permissions.get(call.id, [])
    if call.ids[1] not in {permission["id"] for permission in kept}:
        raise errors.object_not_found(f"No permission found with id '{call.ids[1]}'.")
    call.store.permissions[call.id] = [permission for permission in kept if permission["id"] != call.ids[1]]
    return answer_json({"id": call.ids[1], "object": "checkpoint.permission", "deleted": True})


def _permission(project: str) -> Object:
    return {"id": make_id("cp_"), "object": "checkpoint.permission", "created_at": now(), "project_id": project}


def _check_checkpoint(call: Call) -> None:
    """Raises AzureError 404 for a checkpoint that no job of this resource created."""
    names = {made["fine_tuned_model_checkpoint"] for job in call.store.fine_tuning for made in job.checkpoints}
    if call.id not in names:
        raise errors.object_not_found(f"No checkpoint found with id '{call.id}'.")


def grade(call: Call) -> Answer:
    request, grader = _grader(call)
    reward = 1.0 if request.model_sample else 0.0
    metadata: Object = {
        "name": grader.get("name"),
        "type": grader.get("type"),
        "errors": {},
        "scores": {},
    }
    return answer_json(
        {"reward": reward, "metadata": metadata, "sub_rewards": {}, "model_grader_token_usage_per_model": {}}
    )


def validate_grader(call: Call) -> Answer:
    _, grader = _grader(call)
    return answer_json({"grader": grader})


def _grader(call: Call) -> tuple[_Grade, Object]:
    """The request and its grader. Raises AzureError 400."""
    request = call.decode(_Grade)
    if request.grader is None:
        raise errors.missing_parameter("grader")
    return request, request.grader


ROUTES = (
    Route("POST", "fine_tuning/jobs", create),
    Route("GET", "fine_tuning/jobs", list_all),
    Route("GET", "fine_tuning/jobs/{id}", get),
    Route("POST", "fine_tuning/jobs/{id}/cancel", cancel),
    Route("POST", "fine_tuning/jobs/{id}/pause", pause),
    Route("POST", "fine_tuning/jobs/{id}/resume", resume),
    Route("GET", "fine_tuning/jobs/{id}/events", list_events),
    Route("DELETE", "fine_tuning/jobs/{id}", delete, azure_alone=True),
    Route("GET", "fine_tuning/jobs/{id}/checkpoints", list_checkpoints),
    Route("POST", "fine_tuning/jobs/{id}/checkpoints/{id}/copy", copy_checkpoint, azure_alone=True),
    Route("GET", "fine_tuning/jobs/{id}/checkpoints/{id}/copy", copy_checkpoint, azure_alone=True),
    Route("POST", "fine_tuning/checkpoints/{id}/permissions", permit),
    Route("GET", "fine_tuning/checkpoints/{id}/permissions", list_permissions),
    Route("DELETE", "fine_tuning/checkpoints/{id}/permissions/{id}", forbid),
    Route("POST", "fine_tuning/alpha/graders/run", grade),
    Route("POST", "fine_tuning/alpha/graders/validate", validate_grader),
)
