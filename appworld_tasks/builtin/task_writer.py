"""Write one task in the official layout: databases as a change log, specs, and ground truth."""

import inspect
import json
import random
import re
import textwrap
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from appworld.apps import get_all_apps
from appworld.collections.models import ModelCollection
from appworld.common.constants import CANARY_STRING, DB_VERSION
from appworld.common.datetime import DateTime
from appworld.common.utils import freeze_time

from appworld_tasks.builtin import checks, scenarios
from appworld_tasks.builtin.base_databases import payment_card
from appworld_tasks.builtin.population import Person, Population
from appworld_tasks.builtin.rows import insert
from appworld_tasks.builtin.scenario import Draft, Stage
from appworld_tasks.builtin.styles import with_values
from appworld_tasks.builtin.vocabulary import vocabulary

IN_RAM = ":memory:builtin_task"
FIRST_MOMENT = datetime(2022, 6, 1, 8, 0, 0)
NUM_DAYS = 900  # tasks are dated over this many days after FIRST_MOMENT
CANARY_COMMENT = f"# Canary String: {CANARY_STRING}\n"


@dataclass(frozen=True)
class WrittenTask:
    """A task that is on disk, with what a demonstration of it needs."""

    task_id: str
    scenario: str
    supervisor: Person
    now: datetime
    draft: Draft


def write_task(
    data_dir: Path, scenario_name: str, task_id: str, population: Population, partition: str, seed: int
) -> WrittenTask:
    """Lay out one task of a scenario with people and words of `partition` and write it under `data_dir/tasks`."""
    scenario = scenarios.load(scenario_name)
    rng = random.Random(f"{seed} {task_id}")
    random.seed(f"{seed} {task_id}")  # some columns default to a random code
    supervisor = _draw_supervisor(population, partition, task_id, seed)
    now = FIRST_MOMENT + timedelta(days=rng.randrange(NUM_DAYS), minutes=rng.randrange(12 * 60))
    task_dir = data_dir / "tasks" / task_id
    apps = [*scenario.APPS, "supervisor", "admin"]
    with freeze_time(DateTime.instance(now)):
        models = ModelCollection.load(
            to_db_home_path=IN_RAM, from_db_home_path=str(data_dir / "base_dbs"), load_apps=apps
        )
        stage = Stage(
            rng=rng,
            supervisor=supervisor,
            population=population,
            words=vocabulary(partition),
            now=now,
            add=lambda path, rows: insert(models[path.split(".")[0]][path.split(".")[1]], rows),
        )
        try:
            draft = scenario.set_up(stage)
        except Exception as error:
            raise ValueError(f"scenario {scenario_name}: set_up fails for {task_id}, seed {seed}: {error!r}") from error
        _insert_supervisor(models, supervisor, draft.instruction)
        models.save(str(task_dir / "dbs"), format="changes", app_names=apps)
        models.close()
    for app in set(get_all_apps()) - set(apps):
        (task_dir / "dbs" / f"{app}.jsonl").touch()
    _write_json(task_dir / "specs.json", _specs(draft, supervisor, now))
    _write_ground_truth(task_dir / "ground_truth", scenario, draft)
    return WrittenTask(task_id, scenario_name, supervisor, now, draft)


def _draw_supervisor(population: Population, partition: str, task_id: str, seed: int) -> Person:
    """Draw the task's supervisor; the tasks of one scenario never share theirs."""
    scenario_id, number = task_id.split("_")
    people = [person for person in population.people if person.partition == partition]
    random.Random(f"{seed} {scenario_id}").shuffle(people)
    return people[int(number) - 1]


def _insert_supervisor(models: ModelCollection, person: Person, instruction: str) -> None:
    app = models.supervisor
    row = {
        "first_name": person.first_name,
        "last_name": person.last_name,
        "email": person.email,
        "phone_number": person.phone_number,
        "birthday": person.birthday,
        "sex": person.sex,
    }
    supervisor_id = insert(app.Supervisor, [row])[0].id
    place = {"city": "Springfield", "state": "Illinois", "country": "United States", "zip_code": 62700 + person.id % 90}
    addresses = [{"name": name, "street_address": f"{person.id} {name} Street", **place} for name in ("Home", "Work")]
    insert(app.Address, [{"supervisor_id": supervisor_id, **address} for address in addresses])
    insert(app.PaymentCard, [{"supervisor_id": supervisor_id, **payment_card(person)}])
    accounts = [{"account_name": name, "password": password} for name, password in person.passwords.items()]
    insert(app.AccountPassword, [{"supervisor_id": supervisor_id, **account} for account in accounts])
    insert(app.Task, [{"supervisor_id": supervisor_id, "instruction": instruction}])


def supervisor_fields(person: Person) -> dict[str, str]:
    """The four fields by which AppWorld names the supervisor."""
    return {name: getattr(person, name) for name in ("first_name", "last_name", "email", "phone_number")}


def _specs(draft: Draft, supervisor: Person, now: datetime) -> dict:
    return {
        "instruction": draft.instruction,
        "supervisor": supervisor_fields(supervisor),
        "datetime": now.isoformat(),
        "db_version": DB_VERSION,
        "canary_string": CANARY_STRING,
    }


def _write_ground_truth(directory: Path, scenario, draft: Draft) -> None:
    directory.mkdir(parents=True)
    solution = compiled_solution([with_values(code, draft) for code in draft.solution])
    metadata = {
        "mode": "full",
        "difficulty": scenario.DIFFICULTY,
        "num_apps": len(scenario.APPS),
        "num_apis": len(_api_names(solution)),
        "num_api_calls": draft.num_api_calls,
        "num_solution_code_lines": len(solution.splitlines()) - 1,
    }
    _write_json(directory / "metadata.json", metadata)
    _write_json(directory / "answer.json", draft.answer)
    _write_json(directory / "public_data.json", draft.given)
    _write_json(directory / "private_data.json", draft.private_data)
    _write_json(directory / "required_apps.json", list(scenario.APPS))
    test_data = [{"requirement": requirement, "label": label} for requirement, label in scenario.TESTS.items()]
    _write_json(directory / "test_data.json", test_data)
    # The shared checks come last: AppWorld's failure report cannot quote a call on the very last line of the file.
    evaluation = inspect.getsource(scenario.evaluate) + "\n\n" + inspect.getsource(checks)
    (directory / "evaluation.py").write_text(CANARY_COMMENT + evaluation)
    (directory / "solution.py").write_text(CANARY_COMMENT + solution)
    (directory / "compiled_solution.py").write_text(CANARY_COMMENT + solution)


def compiled_solution(turns: list[str]) -> str:
    """The turns as the one function that `appworld verify tasks` runs."""
    header = "def solution(apis: ApiCollection, requester: Requester) -> None:\n"
    return header + textwrap.indent("\n".join(turns), "    ") + "\n"


def _api_names(code: str) -> set[str]:
    return set(re.findall(r"apis\.(\w+\.\w+)", code))


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
