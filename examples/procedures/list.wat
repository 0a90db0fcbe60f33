;; Finds a text in a list of examples/list.ts, however long it is, in one round trip.
;;
;;     arguments   0 address of the list, a big-endian field   8 the text
;;     result      the offset of the first node with that text, 0 if there is none
;;
;;     wat2wasm list.wat -o list.wasm
(module
  (import "env" "memory" (memory 0))

  ;; The big-endian number of 32 bits at an offset.
  (func $swapped (param $at i32) (result i32)
    (local $word i32)
    (local.set $word (i32.load (local.get $at)))
    (i32.or
      (i32.rotl (i32.and (local.get $word) (i32.const 0x00ff00ff)) (i32.const 24))
      (i32.rotl (i32.and (local.get $word) (i32.const 0xff00ff00)) (i32.const 8))))

  ;; The offset of what the address at an offset names, 0 if that is NULL. Whatever the base of the heap is,
  ;; its lower half is 0x20000000.
  (func $follow (param $at i32) (result i32)
    (if (result i32) (i64.eqz (i64.load (local.get $at)))
      (then (i32.const 0))
      (else (i32.sub (call $swapped (i32.add (local.get $at) (i32.const 4))) (i32.const 0x20000000)))))

  ;; 1 if so many bytes are the same at two offsets.
  (func $equal (param $a i32) (param $b i32) (param $length i32) (result i32)
    (block $differ
      (loop $next
        (if (i32.eqz (local.get $length)) (then (return (i32.const 1))))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br_if $next
          (i32.eq
            (i32.load8_u (i32.add (local.get $a) (local.get $length)))
            (i32.load8_u (i32.add (local.get $b) (local.get $length)))))))
    (i32.const 0))

  ;; A node: next, a field; the length of its text, a field; its text.
  (func (export "run") (param $arguments i32) (param $length i32) (result i32)
    (local $node i32) (local $text i32)
    (local.set $text (i32.add (local.get $arguments) (i32.const 8)))
    (local.set $length (i32.sub (local.get $length) (i32.const 8)))
    ;; The list is the address of its first node, as a node begins with that of the next.
    (local.set $node (call $follow (local.get $arguments)))
    (loop $next
      (local.set $node (call $follow (local.get $node)))
      (if (i32.eqz (local.get $node)) (then (return (i32.const 0))))
      (br_if $next (i32.ne (call $swapped (i32.add (local.get $node) (i32.const 12))) (local.get $length)))
      (br_if $next
        (i32.eqz
          (call $equal
            (i32.add (local.get $node) (i32.const 16)) (local.get $text) (local.get $length)))))
    (local.get $node)))
