//! Parameters of a module that are lists: a value for each of its devices, in the order of their probe, of which the last
//! stands for all that follow.

/// What a list says of one device.
#[must_use]
pub fn nth(list: &str, at: usize) -> Option<&str> {
    list.split(',').nth(at).or_else(|| list.split(',').next_back())
}

/// Whether two lists say the same of so many devices. None where one of them is no list of numbers.
#[must_use]
pub fn alike(one: &str, other: &str, devices: usize) -> Option<bool> {
    let all_are = |list: &str| list.split(',').all(|value| number(value).is_some());
    let of = |list, at| nth(list, at).and_then(number);
    (all_are(one) && all_are(other)).then(|| (0..devices).all(|at| of(one, at) == of(other, at)))
}

fn number(value: &str) -> Option<u16> {
    value.trim().parse().ok()
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
