"""By hand: classify a folder, archive or prefix of any size with the champion."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS, stage_task

with DAG(
    dag_id="batch_predict",
    description="Classifies all images of a folder, archive or prefix into Parquet or CSV files.",
    doc_md=__doc__
    + """

`predict`

Every image of `images` goes through the champion, or the version that `model_version` or `alias` names. `out` gets
files of predictions with label, probabilities and version, a list of what could not be decoded, and `_SUCCESS` at the
end. With `workers` above 1, as many workers of a Ray classify the images. A run that was killed goes on after its last
complete part, and so does a new run with the same `out`. The same from a shell:

    make predict SOURCE=s3://photos/2026/ OUT=s3://predictions/2026/

There is no schedule; give it one, and addresses as defaults, for data that come by themselves.
""",
    tags=["vision", "prediction"],
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # two runs into one `out` would do the work twice
    dagrun_timeout=timedelta(days=6),
    default_args=STAGE_DEFAULTS,
    params=stage_params("predict"),
):
    stage_task("predict", execution_timeout=timedelta(days=2))
