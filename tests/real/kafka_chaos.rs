mod support;
#[test]
fn a() {}
