//! The syntax tree as an indented tree of text.

use super::*;
use std::fmt::{self, Write};

/// Lines with two spaces of indentation per level.
struct Tree {
    text: String,
    depth: usize,
}

impl Tree {
    fn line(&mut self, text: impl AsRef<str>) {
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    fn nest(&mut self, head: impl AsRef<str>, inner: impl FnOnce(&mut Self)) {
        self.line(head);
        self.depth += 1;
        inner(self);
        self.depth -= 1;
    }

    fn member(&mut self, member: &Member) {
        match member {
            Member::Dims(dims, _) => dims.iter().for_each(|d| self.binding("dim", d)),
            Member::Let(b) => self.binding("let", b),
            Member::Param(p) => {
                let kind = if p.is_state { "state" } else { "param" };
                self.line(format!(
                    "{kind} {} {} {:?} {}",
                    p.name.text,
                    p.shape,
                    p.tensor.text,
                    at(p.span)
                ));
            }
            Member::Cache(c) => {
                self.line(format!("cache {} {} {}", c.name.text, c.shape, at(c.span)));
            }
            Member::Use(u) => self.used(u),
            Member::Block(b) => {
                let sizes: Vec<&str> = b.sizes.iter().map(|s| s.text.as_str()).collect();
                self.nest(
                    format!("block {}({}) {}", b.name.text, sizes.join(", "), at(b.span)),
                    |t| b.members.iter().for_each(|m| t.member(m)),
                );
            }
            Member::Function(f) => self.function(f),
            Member::Precision(p) => self.nest(format!("precision {}", at(p.span)), |t| {
                p.settings.iter().for_each(|s| t.line(s.to_string()));
            }),
            Member::Parallel(p) => {
                let phase = p.phase.as_ref().map(|p| format!("{p} ")).unwrap_or_default();
                self.nest(format!("parallel {phase}{}", at(p.span)), |t| {
                    p.items.iter().for_each(|item| t.line(item.to_string()));
                });
            }
            Member::Train(d) => self.nest(format!("train {}", at(d.span)), |t| {
                for item in &d.items {
                    match item {
                        TrainItem::Directive(b) => t.binding("directive", b),
                        TrainItem::Update(b) => t.binding("update", b),
                    }
                }
            }),
        }
    }

    fn used(&mut self, u: &UseDecl) {
        let sizes: Vec<String> = u.sizes.iter().map(Expr::to_string).collect();
        let mut head = format!("use {} {}({})", u.name.text, u.block.text, sizes.join(", "));
        if let Some(r) = &u.range {
            let _ = write!(head, " for {} in {}..{}", r.variable.text, r.first, r.end);
        }
        self.line(format!("{head} {:?} {}", u.prefix.text, at(u.span)));
    }

    fn function(&mut self, f: &FunctionDecl) {
        let kind = match f.kind {
            FunctionKind::Forward => "forward",
            FunctionKind::Named => "fn",
            FunctionKind::Entry => "entry",
        };
        let name = f.name.as_ref().map_or("", |n| n.text.as_str());
        self.nest(format!("{kind} {name} {}", at(f.span)), |t| {
            for i in &f.inputs {
                t.line(format!("input {} {}", i.name.text, i.ty));
            }
            for r in &f.results {
                t.line(format!("result {r}"));
            }
            t.body(&f.body);
        });
    }

    fn body(&mut self, body: &Body) {
        for l in &body.lets {
            let names: Vec<&str> = l.names.iter().map(|n| n.text.as_str()).collect();
            self.nest(format!("let {} {}", names.join(", "), at(l.span)), |t| t.expr(&l.value));
        }
        self.nest("return", |t| body.results.iter().for_each(|r| t.expr(r)));
    }

    fn binding(&mut self, kind: &str, b: &Binding) {
        self.nest(format!("{kind} {} {}", b.name.text, at(b.span)), |t| t.expr(&b.value));
    }

    fn expr(&mut self, e: &Expr) {
        match &e.kind {
            ExprKind::Number(n) => self.line(format!("number {n}")),
            ExprKind::Name(n) => self.line(format!("name {n} {}", at(e.span))),
            ExprKind::Neg(x) => self.nest(format!("neg {}", at(e.span)), |t| t.expr(x)),
            ExprKind::Binary(op, x, y) => {
                self.nest(format!("{} {}", op.symbol(), at(e.span)), |t| {
                    t.expr(x);
                    t.expr(y);
                });
            }
            ExprKind::Index(name, index) => {
                self.nest(format!("index {} {}", name.text, at(e.span)), |t| t.expr(index));
            }
            ExprKind::Reshape(x, shape) => {
                self.nest(format!("as {shape} {}", at(e.span)), |t| t.expr(x));
            }
            ExprKind::Call(c) => self.nest(format!("call {} {}", c.callee.text, at(e.span)), |t| {
                for a in &c.args {
                    match &a.name {
                        Some(n) => t.nest(format!("{} =", n.text), |t| t.expr(&a.value)),
                        None => t.expr(&a.value),
                    }
                }
                if let Some(l) = &c.lambda {
                    let names: Vec<&str> = l.inputs.iter().map(|n| n.text.as_str()).collect();
                    t.nest(format!("lambda {}", names.join(", ")), |t| t.body(&l.body));
                }
            }),
        }
    }
}

fn at(span: Span) -> String {
    format!("@{}..{}", span.start, span.end)
}

impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tree = Tree { text: String::new(), depth: 0 };
        for m in &self.models {
            tree.nest(format!("model {} {}", m.name.text, at(m.span)), |t| {
                m.members.iter().for_each(|m| t.member(m));
            });
        }
        for target in &self.targets {
            tree.nest(format!("target {} {}", target.name.text, at(target.span)), |t| {
                target.lines.iter().for_each(|l| t.line(l.to_string()));
            });
        }
        f.write_str(&tree.text)
    }
}
