"""The log of a run in MLflow: parameters, metrics by step, and the configuration.

Zaharia et al. 2018, Accelerating the Machine Learning Lifecycle with MLflow.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ..config.same import flat
from ..config.write import tables_of
from ..contracts import Callback, CallbackContext
from ..errors import MtlError
from ..files import to_json
from ..registry.records import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_PARAMS = 100  # in one request
LONGEST_PARAM = 6000  # characters


@frozen
class Mlflow(Callback):
    """Write the run to MLflow: `pip install "mtlcore[mlflow]"`.

    Keys of the configuration become parameters, each line of metrics.jsonl metrics of its step, and
    config.toml an artifact. The MLflow run is FINISHED, KILLED after a signal, or FAILED. A resumed
    run goes on in the same MLflow run.

    tracking_uri: address of the server or store (default: that of MLflow, such as the environment
        variable MLFLOW_TRACKING_URI). A folder also needs MLFLOW_ALLOW_FILE_STORE=true.
    experiment: name of the MLflow experiment. It is created if it does not exist.
    run_name: name of the MLflow run (default: the name of the run folder).
    """

    name = "mlflow"
    needs_extra = "mlflow"
    cites = "Zaharia et al. 2018, Accelerating the Machine Learning Lifecycle with MLflow"
    reads_network = False

    tracking_uri: str = ""
    experiment: str = "mtlcore"
    run_name: str = ""

    def check(self, run: CallbackContext) -> None:
        """Raise MtlError without MLflow, or in a new run if its store can't be used."""
        if run.folder.exists():
            return  # resumed, perhaps unattended: it trains even while the server is away
        try:
            self._client().search_experiments(max_results=1)
        except ImportError as error:
            raise MtlError(
                f'it needs {error.name}: type `pip install "mtlcore[mlflow]"`, or remove the table'
            ) from error
        except Exception as error:
            where = f"tracking_uri = {self.tracking_uri!r}" if self.tracking_uri else "its store"
            raise MtlError(f"MLflow can't use {where}: {one_line(error)}") from error

    def on_train_start(self, run: CallbackContext) -> None:
        client = self._client()
        if "run_id" in run.state:
            client.update_run(run.state["run_id"], status="RUNNING")
        else:
            run.state["run_id"] = self._create(client, run)
        run.handles.update(client=client, status="KILLED")

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics: list[Metric] = []
        for name, value in row.items():
            if name != "step" and value is not None:
                metrics.append(Metric(legal(name), float(value), now_ms, int(row["step"])))
        self._send(run, "log_batch", metrics=metrics)

    def on_train_end(self, run: CallbackContext) -> None:
        run.handles["status"] = "FINISHED"

    def on_exception(self, run: CallbackContext, error: BaseException) -> None:
        # By name: `Interrupted` belongs to training, which callbacks don't import.
        interrupted = type(error).__name__ in ("Interrupted", "KeyboardInterrupt")
        run.handles["status"] = "KILLED" if interrupted else "FAILED"

    def teardown(self, run: CallbackContext) -> None:
        # Again, since a resumed run may have changed keys.
        self._send(run, "log_artifact", str(run.folder / "config.toml"))
        self._send(run, "set_terminated", status=run.handles.get("status", "KILLED"))

    def _client(self) -> MlflowClient:
        # Imported here, since the import takes more than a second.
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri or None)

    def _create(self, client: MlflowClient, run: CallbackContext) -> str:
        """Create the MLflow run, with its parameters. -> its id."""
        from mlflow.entities import Param

        found = client.get_experiment_by_name(self.experiment)
        own = found.experiment_id if found else client.create_experiment(self.experiment)
        run_name = self.run_name or run.folder.resolve().name
        run_id: str = client.create_run(own, run_name=run_name).info.run_id
        params: list[Param] = []
        for key, value in flat(tables_of(run.experiment)):
            shown = value if isinstance(value, str) else to_json(value)
            params.append(Param(legal(key), shown[:LONGEST_PARAM]))
        for start in range(0, len(params), MOST_PARAMS):
            client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
        return run_id

    def _send(self, run: CallbackContext, request: str, *args: object, **kwargs: object) -> None:
        """Send a request about this run. Nothing more is sent after one that failed."""
        client = run.handles.get("client")
        if client is None:  # a request failed, and this was reported
            return
        try:
            getattr(client, request)(run.state["run_id"], *args, **kwargs)
        except BaseException:
            # Each further request could wait for minutes until MLflow gives up.
            del run.handles["client"]
            raise


def legal(name: str) -> str:
    """Return a name as MLflow allows it: "gender/f1[race=white]" -> "gender/f1/race-white"."""
    named = name.replace("[", "/").replace("]", "").replace("=", "-")
    return re.sub(r"[^\w/.\- :]", "_", named)
