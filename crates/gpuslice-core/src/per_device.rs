//! Parameters of a module that are lists: a number for each of its devices, in the order of their probe.

/// Whether two lists say the same of so many devices: the last number stands for all that follow. None where one of them
/// is no list of numbers.
#[must_use]
pub fn alike(one: &str, other: &str, devices: usize) -> Option<bool> {
    let (one, other) = (numbers(one)?, numbers(other)?);
    Some((0..devices).all(|at| nth(&one, at) == nth(&other, at)))
}

fn numbers(list: &str) -> Option<Vec<u16>> {
    list.split(',').map(|number| number.trim().parse().ok()).collect()
}

fn nth(numbers: &[u16], at: usize) -> Option<&u16> {
    numbers.get(at).or_else(|| numbers.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_stands_for_all_that_follow() {
        for (one, other, devices, so) in [
            ("2", "2", 8, Some(true)),
            ("2,2", "2", 2, Some(true)),
            ("2, 2\n", "2", 3, Some(true)),
            ("2,4", "2", 2, Some(false)),
            ("2,4", "2", 1, Some(true)),
            ("4", "2,4", 2, Some(false)),
            ("2,4,4", "2,4", 5, Some(true)),
            ("many", "2", 1, None),
            ("2", "", 1, None),
        ] {
            assert_eq!(alike(one, other, devices), so, "{one:?} and {other:?} of {devices}");
        }
    }
}
