"""Every week: make the champion smaller, and promote the result if it answers as well and costs less."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.dag_parts.compression import compress_and_promote
from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS

with DAG(
    dag_id="weekly_compression",
    description="Makes the champion faster: compresses it, promotes the result if it answers as well and pays.",
    doc_md=__doc__
    + """

`compress -> evaluate -> approve -> register -> [promoted?] -> deploy`

`compress` makes a challenger out of the champion, or of the model of the train run that `trained_by` names. `method`
says how: `int8` gives its weights and activations eight bits, without training; `distill` trains a smaller network
with it as the teacher; `prune` removes the channels that matter least and trains what is left. `evaluate` measures
the result beside the model that it was made from. The gate asks that it is no worse within `non_inferiority_margin`,
and that it is `min_compression_gain` times as fast on this machine, or as small with `compression_gain=size`. A
champion that is quantized or pruned already stays as it is. From a shell:

    make run DAG=weekly_compression CONF='{"registered_model": "cifar"}'
    make run DAG=weekly_compression CONF='{"method": "prune", "pruning_ratio": 0.5}'
""",
    tags=["vision", "compression"],
    schedule="0 12 * * 0",  # when the trainings of that night are over: a champion that moves meanwhile fails register
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    dagrun_timeout=timedelta(days=4),  # an approval may take three of them
    default_args=STAGE_DEFAULTS,
    params=stage_params("compress", "evaluate", "register", "deploy"),
):
    compress_and_promote()
