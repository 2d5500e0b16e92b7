from weather import to_fahrenheit

from ringmill import testing


def test_water_freezes_at_32_and_boils_at_212():
    result = testing.run(to_fahrenheit, {"celsius": [0.0, 100.0]})
    assert result["fahrenheit"].tolist() == [32.0, 212.0]


def test_results_do_not_depend_on_how_rows_are_batched():
    testing.assert_row_wise(to_fahrenheit, {"celsius": [-40.0, 0.0, 21.5, 100.0]})
