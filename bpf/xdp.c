/* The shield: junk, deny lists and floods end here, before the kernel allocates anything for them.
 *
 * `judge` decides, `shield` counts, marks and acts. Nothing that socket selection (reuseport.c) could deliver is dropped,
 * except by a limit, the deny list, the list of source ports, or attack mode. What it cannot read goes to the stack.
 *
 * What surprises: the limiter's buckets are an array indexed by a keyed hash of the prefix, not a hash table: the cost
 * does not grow with the number of sources, and a stranger can neither fill it nor aim at somebody else's bucket. The
 * price is that two prefixes may share a bucket. Buckets are updated without a lock: CPUs that race may admit a few more.
 */
#include "maps.h"

enum action { XDP_DROP_ = 1, XDP_PASS_ = 2 };
#define UDP 17
#define UDP_LENGTH 8
#define MUST_RETRY_TOS (0x2f << 2)	/* velocity_edge.quic.engine.MUST_RETRY_DSCP */

/* struct xdp_md, as far as it is used. */
struct shield_context {
	unsigned int data, data_end;
};

struct vlan {
	unsigned short tag, protocol;
};

struct ethernet {
	unsigned char to[6], from[6];
	unsigned short protocol;
};

struct ipv4 {
	unsigned char version_words, tos;
	unsigned short length, id, fragment;
	unsigned char ttl, protocol;
	unsigned short checksum;
	unsigned int source, destination;
};

struct ipv6 {
	unsigned char version_class, class_label, label[2];
	unsigned short length;
	unsigned char next, hops;
	unsigned char source[16], destination[16];
};

struct udp {
	unsigned short source, destination, length, checksum;
};

/* Where the headers are, and who should get the packet: what `judge` finds on its way. */
struct found {
	unsigned char *ip;
	unsigned int is_ipv6;
	struct worker *worker;		/* NULL: a new connection with this `dcid` */
	unsigned long long dcid;
};

/* Ports that no client sends from: chargen, qotd, DNS, NTP, NetBIOS, SNMP ... (the list of s2n-quic). */
QUIC_INLINE int is_reflector(unsigned int port)
{
	switch (port) {
	case 0: case 17: case 19: case 53: case 111: case 123: case 137: case 138: case 161: case 389: case 500:
		return 1;
	}
	return 0;
}

QUIC_INLINE int is_ours(const struct settings *settings, unsigned short port, const unsigned char *address, int family)
{
	const struct listener *listener;

#pragma unroll
	for (int i = 0; i < MAX_LISTENERS; i++) {
		listener = &settings->listener[i];
		if (!listener->port)
			return 0;
		if (listener->port != port || !(listener->families & family))
			continue;
		if (listener->wildcard)
			return 1;
		if (quic_load32(address) != listener->address[0])
			continue;
		if (family == FAMILY_IPV4 || (quic_load32(address + 4) == listener->address[1] &&
					      quic_load32(address + 8) == listener->address[2] &&
					      quic_load32(address + 12) == listener->address[3]))
			return 1;
	}
	return 0;
}

QUIC_INLINE int is_denied(const struct found *found)
{
	struct deny4_key key4 = { .bits = 32 };
	struct deny6_key key6 = { .bits = 128 };

	if (found->is_ipv6) {
		__builtin_memcpy(key6.address, ((struct ipv6 *)found->ip)->source, 16);
		return map_lookup(MAP(deny6), &key6) != 0;
	}
	*(unsigned int *)key4.address = ((struct ipv4 *)found->ip)->source;
	return map_lookup(MAP(deny4), &key4) != 0;
}

/* Whether this packet of its /24 or /56 is within the rate. */
QUIC_INLINE int is_within(const struct settings *settings, const struct found *found, enum limit limit)
{
	const struct rate *rate = &settings->rate[limit];
	unsigned long long prefix, now, tat;
	struct buckets *buckets;
	unsigned int index;

	if (!rate->interval_ns)
		return !settings->attack;
	if (found->is_ipv6)	/* bytes in network order: the low ones are the first ones */
		prefix = quic_load64(((struct ipv6 *)found->ip)->source) & 0x00ffffffffffffffULL;
	else
		prefix = ((struct ipv4 *)found->ip)->source & 0x00ffffffU;
	index = quic_siphash13(&settings->secret, prefix, 1 + found->is_ipv6) & (LIMIT_ENTRIES - 1);
	buckets = map_lookup(MAP(limits), &index);
	if (!buckets)
		return 0;
	now = ktime_ns();
	tat = buckets->tat[limit];
	if (tat < now)
		tat = now;
	tat += rate->interval_ns;
	if (tat - now > rate->window_ns)
		return 0;
	buckets->tat[limit] = tat;
	return 1;
}

/* A datagram of ours, from its first byte. */
QUIC_INLINE int judge_quic(struct shield_context *ctx, const struct settings *settings, struct found *found,
			   const unsigned char *p, const unsigned char *end, unsigned int length)
{
	struct quic_packet packet;
	enum limit limit = LIMITS;
	int decodes = 0;

	switch (quic_parse(p, end, length, &packet)) {
	case QUIC_MALFORMED:
		return XDP_dropped_malformed;
	case QUIC_UNREADABLE:
		/* In a frame that ends too early, or only beyond its linear part? */
		if (xdp_buffer_length(ctx) < (unsigned long)(p - (unsigned char *)(long)ctx->data) + length)
			return XDP_dropped_malformed;
		return XDP_passed_not_linear;
	case QUIC_RETRY:
	case QUIC_NEGOTIATION:
		return XDP_dropped_impossible_type;
	case QUIC_SHORT:
	case QUIC_HANDSHAKE:
		break;
	case QUIC_INITIAL:
		if (length < QUIC_MIN_INITIAL_DATAGRAM)
			return XDP_dropped_small_initial;
		limit = packet.has_token ? LIMIT_TOKEN : LIMIT_INITIAL;
		break;
	case QUIC_ZERO_RTT:
		limit = LIMIT_ZERO_RTT;
		break;
	default:
		if (length < QUIC_MIN_INITIAL_DATAGRAM)
			return XDP_dropped_small_version;
		limit = LIMIT_VERSION;
	}
	if (limit < LIMIT_VERSION && packet.dcid_length < QUIC_MIN_INITIAL_DCID)
		return XDP_dropped_short_dcid;
	if (limit != LIMIT_VERSION)
		found->worker = known_worker(settings, &packet, &decodes);
	if (found->worker)
		return XDP_passed_known_worker;
	if (limit == LIMITS)
		return decodes ? XDP_dropped_unknown_worker : XDP_dropped_undecodable;
	if (settings->attack && limit >= LIMIT_ZERO_RTT)
		return XDP_dropped_attack;
	if (packet.dcid + 8 <= end)
		found->dcid = quic_load64(packet.dcid);
	if (is_within(settings, found, limit))
		return XDP_passed_initial + limit;
	if (limit == LIMIT_INITIAL && settings->slip && random_u32() % settings->slip == 0)
		return XDP_passed_must_retry;
	return XDP_dropped_initial_limit + limit;
}

QUIC_INLINE int judge(struct shield_context *ctx, const struct settings *settings, struct found *found)
{
	unsigned char *p = (unsigned char *)(long)ctx->data, *end = (unsigned char *)(long)ctx->data_end, *ip_end;
	struct ethernet *ethernet = (void *)p;
	struct ipv4 *ipv4;
	struct ipv6 *ipv6;
	struct udp *udp;
	unsigned int length, header;
	unsigned short protocol;
	int ours;

	if (p + sizeof(*ethernet) > end)
		return XDP_passed_not_ours;
	protocol = ethernet->protocol;
	p += sizeof(*ethernet);
#pragma unroll
	for (int i = 0; i < 2; i++) {	/* 802.1Q and 802.1ad; one that hardware stripped is not in the frame */
		if (protocol != htons_constant(0x8100) && protocol != htons_constant(0x88a8))
			break;
		if (p + sizeof(struct vlan) > end)
			return XDP_passed_not_ours;
		protocol = ((struct vlan *)p)->protocol;
		p += sizeof(struct vlan);
	}
	found->ip = p;
	if (protocol == htons_constant(0x0800)) {
		ipv4 = (void *)p;
		if (p + sizeof(*ipv4) > end || ipv4->protocol != UDP)
			return XDP_passed_not_ours;
		if (ipv4->fragment & htons_constant(0x3fff))	/* offset or "more fragments"; not "don't fragment" */
			return XDP_passed_fragment;
		header = (ipv4->version_words & 15) * 4;
		if (header < sizeof(*ipv4))
			return XDP_passed_not_ours;
		ip_end = p + __builtin_bswap16(ipv4->length);
		p += header;
		udp = (void *)p;
		if (p + sizeof(*udp) > end)
			return XDP_passed_not_ours;
		ours = is_ours(settings, udp->destination, (unsigned char *)&ipv4->destination, FAMILY_IPV4);
	} else if (protocol == htons_constant(0x86dd)) {
		ipv6 = (void *)p;
		if (p + sizeof(*ipv6) > end)
			return XDP_passed_not_ours;
		if (ipv6->next == 44)
			return XDP_passed_fragment;
		if (ipv6->next != UDP)	/* extension headers too: the stack walks them, socket selection decides */
			return XDP_passed_not_ours;
		found->is_ipv6 = 1;
		p += sizeof(*ipv6);
		ip_end = p + __builtin_bswap16(ipv6->length);
		udp = (void *)p;
		if (p + sizeof(*udp) > end)
			return XDP_passed_not_ours;
		ours = is_ours(settings, udp->destination, ipv6->destination, FAMILY_IPV6);
	} else {
		return XDP_passed_not_ours;
	}
	if (!ours)
		return XDP_passed_not_ours;
	length = __builtin_bswap16(udp->length);
	if (length < UDP_LENGTH || p + length > ip_end)
		return XDP_dropped_malformed;
	if (is_reflector(__builtin_bswap16(udp->source)))
		return XDP_dropped_source_port;
	if (settings->deny && is_denied(found))
		return XDP_dropped_denied;
	return judge_quic(ctx, settings, found, p + UDP_LENGTH, end, length - UDP_LENGTH);
}

/* Set the DSCP that asks a worker for a Retry; ECN stays. */
QUIC_INLINE void mark_must_retry(const struct found *found)
{
	struct ipv4 *ipv4 = (void *)found->ip;
	struct ipv6 *ipv6 = (void *)found->ip;
	unsigned char tos;
	unsigned int sum;

	if (found->is_ipv6) {
		ipv6->version_class = 0x60 | MUST_RETRY_TOS >> 4;
		ipv6->class_label = (ipv6->class_label & 0x3f) | (MUST_RETRY_TOS & 0x0c) << 4;
		return;
	}
	tos = MUST_RETRY_TOS | (ipv4->tos & 3);
	/* RFC 1624: new checksum = ~(~old + ~before + after). The TOS is the second byte of its word: the high one here. */
	sum = (unsigned short)~ipv4->checksum + (unsigned short)~(ipv4->tos << 8) + (tos << 8);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ipv4->checksum = ~sum;
	ipv4->tos = tos;
}

/* Tier D: onto the CPU of the worker. A CPU without an entry in the map keeps the packet here. */
QUIC_INLINE int move(const struct settings *settings, const struct found *found)
{
	struct worker *worker = found->worker;
	unsigned int id;
	int worker_id, action = XDP_PASS_;

	if (!worker) {
		worker_id = accepting_worker(settings, found->dcid);
		if (worker_id >= 0) {
			id = worker_id;
			worker = map_lookup(MAP(workers), &id);
		}
	}
	if (worker && worker->slot_plus_1)
		action = redirect_map(MAP(cpus), worker->cpu, XDP_PASS_);
	count(STAGE_CPUMAP, action == XDP_PASS_ ? CPUMAP_stayed : CPUMAP_moved);
	return action;
}

PROGRAM(shield)(struct shield_context *ctx)
{
	unsigned int zero = 0;
	struct settings *settings = map_lookup(MAP(settings), &zero);
	struct found found = {};
	int verdict;

	if (!settings)
		return XDP_PASS_;
	verdict = judge(ctx, settings, &found);
	count(STAGE_XDP, verdict);
	if (verdict >= XDP_DROPPED)
		return XDP_DROP_;
	if (verdict == XDP_passed_must_retry)
		mark_must_retry(&found);
	if (settings->move && verdict >= XDP_passed_known_worker)
		return move(settings, &found);
	return XDP_PASS_;
}

/* Runs on the CPU that a packet was moved to: all that it does is to say that it came. */
PROGRAM(arrived)(struct shield_context *ctx)
{
	count(STAGE_CPUMAP, CPUMAP_arrived);
	return XDP_PASS_;
}
