//! Sizes of tensor axes: polynomials over the symbols that are known only when a step runs.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;

/// A size that is known only when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sym {
    /// `T`: tokens that this step computes, over all sequences of the batch.
    #[serde(rename = "T")]
    Tokens,
    /// `S`: tokens in the cache after this step's were appended, over all sequences.
    #[serde(rename = "S")]
    Past,
    /// `B`: sequences in the batch.
    #[serde(rename = "B")]
    Sequences,
}

impl Sym {
    /// All symbols, in the order in which kernels take them as parameters.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Past, Self::Sequences];

    /// The one-letter name used in `.moe` files and printed shapes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "T",
            Self::Past => "S",
            Self::Sequences => "B",
        }
    }
}

/// The values of the symbols in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Value of [`Sym::Tokens`].
    pub tokens: u64,
    /// Value of [`Sym::Past`].
    pub past: u64,
    /// Value of [`Sym::Sequences`].
    pub sequences: u64,
}

impl Sizes {
    /// The value of one symbol.
    pub fn get(&self, sym: Sym) -> u64 {
        match sym {
            Sym::Tokens => self.tokens,
            Sym::Past => self.past,
            Sym::Sequences => self.sequences,
        }
    }
}

/// The size of one axis: an integer polynomial in the symbols, in canonical form, so that
/// two sizes are equal for every step exactly if they compare equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Monomial (sorted symbols; empty for the constant) to its non-zero coefficient.
    terms: BTreeMap<Vec<Sym>, i64>,
}

impl Dim {
    /// The integer, if no symbol occurs.
    pub fn constant(&self) -> Option<u64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).and_then(|&c| u64::try_from(c).ok()),
            _ => None,
        }
    }

    /// Whether this is the integer 1.
    pub fn is_one(&self) -> bool {
        self.constant() == Some(1)
    }

    /// The value for given sizes; a negative value (which no checked shape has) gives 0.
    pub fn eval(&self, sizes: &Sizes) -> u64 {
        let sum: i128 = self
            .terms
            .iter()
            .map(|(m, &c)| {
                let sizes = m.iter().map(|&s| i128::from(sizes.get(s)));
                sizes.fold(i128::from(c), i128::saturating_mul)
            })
            .fold(0, i128::saturating_add);
        u64::try_from(sum.max(0)).unwrap_or(u64::MAX)
    }

    /// The symbols that occur, in order.
    pub fn symbols(&self) -> Vec<Sym> {
        Sym::ALL.into_iter().filter(|s| self.terms.keys().any(|m| m.contains(s))).collect()
    }

    /// The terms of the polynomial: the sorted symbols that are multiplied (none for the
    /// constant) and the factor.
    pub fn terms(&self) -> impl Iterator<Item = (&[Sym], i64)> {
        self.terms.iter().map(|(monomial, &factor)| (monomial.as_slice(), factor))
    }

    /// This size divided by an integer, if every coefficient is divisible.
    pub fn div_exact(&self, by: u64) -> Option<Self> {
        let by = i64::try_from(by).ok().filter(|&b| b != 0)?;
        let mut terms = BTreeMap::new();
        for (m, &c) in &self.terms {
            if c % by != 0 {
                return None;
            }
            terms.insert(m.clone(), c / by);
        }
        Some(Self { terms })
    }

    /// Whether this size is at least another in every step, as far as coefficients tell (no
    /// relation between the symbols is used).
    pub fn covers(&self, other: &Self) -> bool {
        (self.clone() - other.clone()).terms.values().all(|&c| c >= 0)
    }

    /// The product of the sizes of several axes.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Self>) -> Self {
        dims.into_iter().fold(Self::from(1), |p, d| p * d.clone())
    }

    fn insert(&mut self, monomial: Vec<Sym>, coefficient: i64) {
        let sum = self.terms.get(&monomial).copied().unwrap_or(0).saturating_add(coefficient);
        if sum == 0 {
            self.terms.remove(&monomial);
        } else {
            self.terms.insert(monomial, sum);
        }
    }
}

impl From<u64> for Dim {
    fn from(value: u64) -> Self {
        let mut dim = Self { terms: BTreeMap::new() };
        dim.insert(Vec::new(), i64::try_from(value).unwrap_or(i64::MAX));
        dim
    }
}

impl From<Sym> for Dim {
    fn from(sym: Sym) -> Self {
        Self { terms: BTreeMap::from([(vec![sym], 1)]) }
    }
}

impl Add for Dim {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        for (m, c) in other.terms {
            self.insert(m, c);
        }
        self
    }
}

impl Sub for Dim {
    type Output = Self;
    fn sub(mut self, other: Self) -> Self {
        for (m, c) in other.terms {
            self.insert(m, -c);
        }
        self
    }
}

impl Mul for Dim {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let mut product = Self { terms: BTreeMap::new() };
        for (m, &c) in &self.terms {
            for (n, &d) in &other.terms {
                let mut monomial = [m.as_slice(), n.as_slice()].concat();
                monomial.sort_unstable();
                product.insert(monomial, c.saturating_mul(d));
            }
        }
        product
    }
}

impl Mul<u64> for Dim {
    type Output = Self;
    fn mul(self, other: u64) -> Self {
        self * Self::from(other)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // The symbolic part first: `8*T + 1`.
        let constant = self.terms.get(&Vec::new()).map(|c| (&[][..], c));
        let symbolic = self.terms.iter().filter(|(m, _)| !m.is_empty());
        let ordered = symbolic.map(|(m, c)| (m.as_slice(), c)).chain(constant);
        for (i, (monomial, &c)) in ordered.enumerate() {
            match (i, c < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let mut factors: Vec<String> = monomial.iter().map(|s| s.name().to_owned()).collect();
            if c.unsigned_abs() != 1 || factors.is_empty() {
                factors.insert(0, c.unsigned_abs().to_string());
            }
            f.write_str(&factors.join("*"))?;
        }
        Ok(())
    }
}

impl FromStr for Dim {
    type Err = String;
    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size");
        let spaced = text.trim().replace(" - ", " + -");
        let mut dim = Self { terms: BTreeMap::new() };
        for term in spaced.split(" + ") {
            let (negative, term) = match term.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, term),
            };
            let (mut coefficient, mut monomial) = (1i64, Vec::new());
            for factor in term.split('*') {
                if let Some(sym) = Sym::ALL.into_iter().find(|s| s.name() == factor) {
                    monomial.push(sym);
                } else {
                    let n: i64 = factor.parse().map_err(|_| bad())?;
                    coefficient = coefficient.checked_mul(n).ok_or_else(bad)?;
                }
            }
            monomial.sort_unstable();
            dim.insert(monomial, if negative { -coefficient } else { coefficient });
        }
        Ok(dim)
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.constant() {
            Some(n) => serializer.serialize_u64(n),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Integer(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Integer(n) => Ok(Self::from(n)),
            Form::Text(s) => s.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_polynomials_compare_equal_and_print_round_trips() {
        let t = Dim::from(Sym::Tokens);
        let s = Dim::from(Sym::Past);
        let a = (t.clone() + Dim::from(2)) * 8;
        let b = t.clone() * 8 + Dim::from(16);
        assert_eq!(a, b);
        for d in [a, t.clone() * s.clone() * 4, s - t, Dim::from(0), Dim::from(7)] {
            assert_eq!(d.to_string().parse::<Dim>(), Ok(d));
        }
    }

    #[test]
    fn a_size_covers_another_coefficient_by_coefficient() {
        let (t, s) = (Dim::from(Sym::Tokens), Dim::from(Sym::Past));
        assert!((t.clone() * 8 + s.clone()).covers(&(t.clone() * 8)));
        assert!(!(t.clone() * 8).covers(&(t.clone() * 8 + s.clone())));
        assert!(!(t.clone() * 9).covers(&s) && !s.covers(&t));
    }

    #[test]
    fn exact_division_needs_every_coefficient() {
        let d = Dim::from(Sym::Tokens) * 12 + Dim::from(8);
        assert_eq!(d.div_exact(4).map(|d| d.to_string()).as_deref(), Some("3*T + 2"));
        assert_eq!(d.div_exact(8), None);
    }
}
