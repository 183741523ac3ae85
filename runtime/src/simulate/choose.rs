//! Which experts tokens are to choose.

use moec_ir::graph::Groups;

/// The `k` best experts of a score, best first and the lower of equals, as a group limit allows
/// them to be chosen; those without a score never. `None` where there are too few.
pub(super) fn best(scores: &[Option<f64>], k: usize, groups: Option<Groups>) -> Option<Vec<usize>> {
    let experts = scores.len();
    let (count, keep) = groups.map_or((1, 1), |g| (g.count.max(1) as usize, g.keep as usize));
    let size = (experts / count).max(1);
    let mut chosen: Vec<usize> = Vec::new();
    let mut used: Vec<usize> = Vec::new();
    while chosen.len() < k {
        let left = k - chosen.len();
        let free = |group: usize| {
            let range = group * size..((group + 1) * size).min(experts);
            range.filter(|e| scores[*e].is_some() && !chosen.contains(e)).count()
        };
        let allowed = |e: usize| {
            let group = e / size;
            if used.contains(&group) {
                return true;
            }
            // A further group must leave enough experts in those that can be taken.
            let others = used.iter().map(|&g| free(g)).sum::<usize>() + free(group);
            let more = keep.saturating_sub(used.len() + 1);
            let mut rest: Vec<usize> =
                (0..count).filter(|g| *g != group && !used.contains(g)).map(free).collect();
            rest.sort_unstable_by(|a, b| b.cmp(a));
            used.len() < keep && others + rest.iter().take(more).sum::<usize>() >= left
        };
        let candidates = (0..experts)
            .filter(|e| scores[*e].is_some() && !chosen.contains(e) && allowed(*e))
            .map(|e| (scores[e].unwrap_or(f64::NEG_INFINITY), e));
        let (_, e) = candidates.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        chosen.push(e);
        if !used.contains(&(e / size)) {
            used.push(e / size);
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::graph::GroupScore;

    #[test]
    fn a_group_limit_holds_and_no_choice_is_a_dead_end() {
        let some = |scores: &[f64]| scores.iter().map(|s| Some(*s)).collect::<Vec<_>>();
        let scores = some(&[9.0, 1.0, 8.0, 2.0, 7.0, 7.0, 0.0, 0.0]);
        assert_eq!(best(&scores, 3, None), Some(vec![0, 2, 4]));
        let groups = Some(Groups { count: 4, keep: 2, by: GroupScore::SumOfTop(2) });
        assert_eq!(best(&scores, 3, groups), Some(vec![0, 2, 3]));
        // Experts 0 and 2 are alone in their groups: both would leave too few.
        let mut few = scores;
        few[1] = None;
        few[3] = None;
        assert_eq!(best(&few, 3, groups), Some(vec![0, 4, 5]));
        few[5] = None;
        assert_eq!(best(&few, 3, groups), Some(vec![0, 6, 7]));
        few[7] = None;
        assert_eq!(best(&few, 3, groups), None);
    }
}
