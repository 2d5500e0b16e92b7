import ringmill as rm


@rm.udf(outputs={"fahrenheit": rm.float64})
def to_fahrenheit(celsius):
    return celsius * 9 / 5 + 32
