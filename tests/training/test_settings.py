"""Settings: read from text, refused with the nearest name."""

import pytest

from nearfar.errors import BadConfig
from nearfar.training.config import Config, config_from_json, describe_config, parse_settings, resolve


def test_every_setting_has_a_meaning_and_can_be_set_by_its_name():
    for name, value, meaning in describe_config():
        assert meaning
        if value is not None:
            assert {s.name: s.value for s in describe_config(parse_settings([f"{name}={value}"]))}[name] == value


def test_settings_are_read_by_their_type():
    config = parse_settings(
        ["batch_size=1_024", "optimizer.clip=0", "learn_temperature=yes", "dim=none", "optimizer.schedule=cosine"]
    )
    assert (config.batch_size, config.optimizer.clip, config.learn_temperature, config.dim) == (1024, 0.0, True, None)
    assert config.optimizer.schedule == "cosine"
    assert config_from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchsize=3", "batch_size"),
        ("lr=3", "--print-config"),
        ("clip=1", "optimizer.clip"),
        ("optimizer=1", "there is no such setting"),
        ("epochs=many", "a whole number"),
        ("epochs=1.5", "a whole number"),
        ("epochs=0", "1 or more"),
        ("epochs", "NAME=VALUE"),
        ("temperature=nan", "a number"),
        ("temperature=0", "above 0"),
        ("batch_size=1", "no negatives"),
        ("optimizer.schedule=square", "linear, cosine, constant"),
        ("evaluation.metric=ndgc@10", "ndcg"),
        ("epochs.x=1", "there is no such setting"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_way_on(text, said):
    with pytest.raises(BadConfig, match=said.replace(".", r"\.")):
        parse_settings([text])


def test_defaults_pass_their_own_check():
    assert parse_settings([]) == Config()


@pytest.mark.parametrize(("pairs", "batch_size"), [(10, 32), (300, 32), (4_000, 256), (24_461, 2048), (10_000_000, 2048)])
def test_a_table_takes_a_batch_of_at_most_an_eighth_of_the_pairs_so_that_few_pairs_give_enough_steps(pairs, batch_size):
    assert resolve(Config(), is_static=True, pairs=pairs).batch_size == batch_size
    assert resolve(Config(batch_size=7), is_static=True, pairs=pairs).batch_size == 7
    assert resolve(Config(), is_static=False, pairs=pairs).batch_size == 64
