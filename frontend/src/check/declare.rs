//! The names that a model or a block declares.

use super::{builtins, is_symbol};
use crate::ast::*;
use moec_ir::{Diagnostic, Span};
use std::collections::BTreeMap;

/// What a name was declared as.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decl<'a> {
    /// `dim`, `let` or a size of the block: in the values of the place.
    Value(Span),
    /// `param` or `state`
    Param(&'a ParamDecl),
    /// `cache`
    Cache(&'a CacheDecl),
    /// `use`
    Use(&'a UseDecl),
    /// `block`
    Block(&'a BlockDecl),
    /// `fn` or `entry`
    Function(&'a FunctionDecl),
}

impl Decl<'_> {
    /// Where it was declared.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Value(span) => *span,
            Self::Param(p) => p.name.span,
            Self::Cache(c) => c.name.span,
            Self::Use(u) => u.name.span,
            Self::Block(b) => b.name.span,
            Self::Function(f) => f.name.as_ref().map_or(f.span, |n| n.span),
        }
    }

    /// What it is, with its article.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Value(_) => "a size or constant",
            Self::Param(_) => "a parameter",
            Self::Cache(_) => "a cache",
            Self::Use(_) => "a used block",
            Self::Block(_) => "a block",
            Self::Function(f) if f.kind == FunctionKind::Entry => "an entry",
            Self::Function(_) => "a function",
        }
    }
}

/// The names of a model or a block.
#[derive(Debug, Default)]
pub(super) struct Scope<'a> {
    /// What each name was declared as first.
    pub(super) names: BTreeMap<&'a str, Decl<'a>>,
    /// What calling a use of the block computes.
    pub(super) forward: Option<&'a FunctionDecl>,
    /// The declarations, in order.
    pub(super) members: &'a [Member],
}

impl<'a> Scope<'a> {
    /// The names that members declare; reports those declared twice (E0202).
    pub(super) fn of(
        members: &'a [Member],
        sizes: &'a [Ident],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut scope = Self { names: BTreeMap::new(), forward: None, members };
        let mut declare = |name: &'a Ident, decl: Decl<'a>| {
            diagnostics.extend(reserved(name, &decl));
            match scope.names.get(name.text.as_str()) {
                None => {
                    scope.names.insert(&name.text, decl);
                }
                Some(first) => diagnostics.push(twice(name, first)),
            }
        };
        for size in sizes {
            declare(size, Decl::Value(size.span));
        }
        for member in members {
            match member {
                Member::Dims(dims, _) => {
                    dims.iter().for_each(|d| declare(&d.name, Decl::Value(d.name.span)));
                }
                Member::Let(b) => declare(&b.name, Decl::Value(b.name.span)),
                Member::Param(p) => declare(&p.name, Decl::Param(p)),
                Member::Cache(c) => declare(&c.name, Decl::Cache(c)),
                Member::Use(u) => declare(&u.name, Decl::Use(u)),
                Member::Block(b) => declare(&b.name, Decl::Block(b)),
                Member::Function(f) => {
                    if let Some(name) = &f.name {
                        declare(name, Decl::Function(f));
                    }
                }
                Member::Precision(_) | Member::Parallel(_) | Member::Train(_) => {}
            }
        }
        scope.forwards(members, diagnostics);
        scope
    }

    fn forwards(&mut self, members: &'a [Member], diagnostics: &mut Vec<Diagnostic>) {
        for member in members {
            let Member::Function(f) = member else { continue };
            match (f.kind, self.forward) {
                (FunctionKind::Forward, None) => self.forward = Some(f),
                (FunctionKind::Forward, Some(first)) => diagnostics.push(
                    Diagnostic::error("E0202", "the block has two functions without a name")
                        .at(f.span, "the second")
                        .and(first.span, "the first")
                        .help("give one of them a name: `fn name(…)`"),
                ),
                _ => {}
            }
        }
    }
}

fn twice(name: &Ident, first: &Decl<'_>) -> Diagnostic {
    Diagnostic::error("E0202", format!("`{}` is defined twice", name.text))
        .at(name.span, "defined again here")
        .and(first.span(), "first defined here")
        .help("rename one of them")
}

/// E0202 for names that the language gives.
fn reserved(name: &Ident, decl: &Decl<'_>) -> Option<Diagnostic> {
    let callable = matches!(decl, Decl::Use(_) | Decl::Function(_));
    let given = if is_symbol(&name.text) {
        "a size of the step (`T`, `S`, `B`)"
    } else if callable && builtins::signature(&name.text).is_some() {
        "a built-in operation"
    } else {
        return None;
    };
    Some(
        Diagnostic::error("E0202", format!("`{}` is already {given}", name.text))
            .at(name.span, "defined again here")
            .help("choose another name"),
    )
}
