from cptlaw.launching.jobs import tune_gpus


def test_gpus_are_tuned_where_there_are_any_and_what_is_set_stays(tmp_path):
    driver = tmp_path / "version"
    environment: dict[str, str] = {}
    tune_gpus(environment, str(driver))
    assert not environment, "no driver"
    driver.touch()
    tune_gpus(cpu := {"JAX_PLATFORMS": "cpu"}, str(driver))
    assert cpu == {"JAX_PLATFORMS": "cpu"}
    tune_gpus(environment, str(driver))
    assert environment == {
        "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    }
    given = {
        "XLA_FLAGS": "--a --xla_gpu_enable_latency_hiding_scheduler=false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",
    }
    tune_gpus(environment := dict(given), str(driver))
    assert environment == given
    tune_gpus(environment := {"XLA_FLAGS": "--a"}, str(driver))
    assert environment["XLA_FLAGS"].startswith("--a --xla_gpu_enable_latency")
