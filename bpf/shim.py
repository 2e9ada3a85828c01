"""The kernel headers that bcc's helpers.h includes, as far as it needs them: no kernel headers have to be installed.

compile.py writes them into the folder of the compiler (BCC_KERNEL_SOURCE).
"""

from __future__ import annotations

SHIM = {
    "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n#define CONFIG_64BIT 1\n",
    "include/linux/types.h": """
typedef unsigned char __u8, u8, uint8_t;         typedef signed char __s8, s8, int8_t;
typedef unsigned short __u16, u16, uint16_t;     typedef short __s16, s16, int16_t;
typedef unsigned int __u32, u32, uint32_t;       typedef int __s32, s32, int32_t;
typedef unsigned long long __u64, u64, uint64_t; typedef long long __s64, s64, int64_t;
typedef unsigned long size_t, uintptr_t;         typedef int pid_t;
typedef __u16 __le16, __be16, __sum16;           typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;                    typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef _Bool bool;
enum { false = 0, true = 1 };
#define NULL ((void *)0)
""",
    "include/linux/bpf_common.h": """
#define BPF_CLASS(code) ((code) & 0x07)
#define BPF_LD 0x00
#define BPF_LDX 0x01
#define BPF_ST 0x02
#define BPF_STX 0x03
#define BPF_ALU 0x04
#define BPF_JMP 0x05
#define BPF_RET 0x06
#define BPF_MISC 0x07
#define BPF_SIZE(code) ((code) & 0x18)
#define BPF_W 0x00
#define BPF_H 0x08
#define BPF_B 0x10
#define BPF_MODE(code) ((code) & 0xe0)
#define BPF_IMM 0x00
#define BPF_ABS 0x20
#define BPF_IND 0x40
#define BPF_MEM 0x60
#define BPF_LEN 0x80
#define BPF_MSH 0xa0
#define BPF_MAXINSNS 4096
""",
    "include/linux/version.h": """
#define KERNEL_VERSION(a,b,c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
""",
    "include/linux/log2.h": "#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((n) - 1)))\n",
    "include/asm/page.h": "",
    "include/uapi/linux/bpf.h": "/* bcc includes its own copy before anything else */\n",
    "include/uapi/linux/if_packet.h": "",
}
