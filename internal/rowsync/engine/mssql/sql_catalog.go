package mssql

// The catalogue is read with views that SQL Server has had since 2016 and that other
// servers of T-SQL have too. What only some have is in statements of its own, whose
// failure is a lack and no error.

// sqlTables lists the user's tables.
func sqlTables() string {
	return `SELECT t.object_id, s.name, t.name, CAST(t.temporal_type AS int), CAST(t.is_memory_optimized AS int), CAST(t.is_external AS int), CAST(t.is_filetable AS int)
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> N'leeward' ORDER BY s.name, t.name`
}

// sqlGraphTables lists node and edge tables; there are none before SQL Server 2017.
func sqlGraphTables() string {
	return "SELECT t.object_id FROM sys.tables AS t WHERE t.is_node = 1 OR t.is_edge = 1"
}

// sqlColumns lists the columns of all tables, with defaults, formulas and identities.
func sqlColumns() string {
	return `SELECT c.object_id, c.column_id, c.name, CASE WHEN u.is_user_defined = 1 THEN b.name ELSE u.name END, CASE WHEN u.is_user_defined = 1 THEN us.name END, CASE WHEN u.is_user_defined = 1 THEN u.name END,
 CAST(c.max_length AS int), CAST(c.precision AS int), CAST(c.scale AS int), c.collation_name, CAST(c.is_nullable AS int), CAST(c.is_identity AS int), CAST(c.is_computed AS int), CASE WHEN c.generated_always_type <> 0 OR c.is_column_set = 1 THEN 1 ELSE 0 END, CAST(c.is_sparse AS int), CAST(c.is_rowguidcol AS int),
 d.name, d.definition, CAST(d.is_system_named AS int), m.definition, CAST(m.is_persisted AS int), CAST(i.seed_value AS nvarchar(40)), CAST(i.increment_value AS nvarchar(40))
FROM sys.columns AS c INNER JOIN sys.objects AS o ON o.object_id = c.object_id
LEFT JOIN sys.types AS u ON u.user_type_id = c.user_type_id
LEFT JOIN sys.types AS b ON b.user_type_id = u.system_type_id
LEFT JOIN sys.schemas AS us ON us.schema_id = u.schema_id
LEFT JOIN sys.default_constraints AS d ON d.parent_object_id = c.object_id AND d.parent_column_id = c.column_id
LEFT JOIN sys.computed_columns AS m ON m.object_id = c.object_id AND m.column_id = c.column_id
LEFT JOIN sys.identity_columns AS i ON i.object_id = c.object_id AND i.column_id = c.column_id
WHERE o.type IN ('U', 'TT') ORDER BY c.object_id, c.column_id`
}

// sqlIndexes lists indexes with their columns; keys and unique constraints are among them.
func sqlIndexes() string {
	return `SELECT i.object_id, i.index_id, i.name, CAST(i.type AS int), CAST(i.is_unique AS int), CAST(i.is_primary_key AS int), CAST(i.is_unique_constraint AS int), CAST(i.is_disabled AS int), CAST(i.ignore_dup_key AS int), CAST(i.fill_factor AS int), i.filter_definition, x.column_id, CAST(x.is_descending_key AS int), CAST(x.is_included_column AS int)
FROM sys.indexes AS i INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id INNER JOIN sys.objects AS o ON o.object_id = i.object_id
WHERE o.type IN ('U', 'TT') AND i.is_hypothetical = 0 ORDER BY i.object_id, i.index_id, x.is_included_column, x.key_ordinal, x.index_column_id`
}

// sqlForeignKeys lists foreign keys with their columns.
func sqlForeignKeys() string {
	return `SELECT f.object_id, f.name, s.name, f.parent_object_id, f.referenced_object_id, f.delete_referential_action_desc, f.update_referential_action_desc, CAST(f.is_disabled AS int), CAST(f.is_not_trusted AS int), CAST(f.is_not_for_replication AS int), x.parent_column_id, x.referenced_column_id
FROM sys.foreign_keys AS f INNER JOIN sys.foreign_key_columns AS x ON x.constraint_object_id = f.object_id INNER JOIN sys.schemas AS s ON s.schema_id = f.schema_id
ORDER BY f.object_id, x.constraint_column_id`
}

// sqlChecks lists check constraints.
func sqlChecks() string {
	return `SELECT k.name, k.parent_object_id, k.definition, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int), CAST(k.is_not_for_replication AS int)
FROM sys.check_constraints AS k ORDER BY k.parent_object_id, k.name`
}

// sqlModules lists views, procedures, functions and triggers of tables with their text.
func sqlModules() string {
	return `SELECT o.object_id, s.name, o.name, o.type, m.definition, o.parent_object_id
FROM sys.objects AS o INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id LEFT JOIN sys.sql_modules AS m ON m.object_id = o.object_id
WHERE o.type IN ('V', 'P', 'FN', 'IF', 'TF', 'TR') AND o.is_ms_shipped = 0 AND s.name <> N'leeward' ORDER BY s.name, o.name`
}

// sqlModuleDependencies lists which views and routines name which others, so that
// they can be made in order.
func sqlModuleDependencies() string {
	return `SELECT d.referencing_id, d.referenced_id FROM sys.sql_expression_dependencies AS d WHERE d.referenced_id IS NOT NULL AND d.referencing_id <> d.referenced_id`
}

// sqlTriggers lists triggers of tables and whether they are disabled.
func sqlTriggers() string {
	return `SELECT g.object_id, g.name, g.parent_id, CAST(g.is_disabled AS int), CAST(g.is_instead_of_trigger AS int) FROM sys.triggers AS g WHERE g.parent_id <> 0 ORDER BY g.parent_id, g.name`
}

// sqlSequences lists sequences and where they stand.
func sqlSequences() string {
	return `SELECT s.name, q.name, y.name, CAST(q.precision AS int), CAST(q.start_value AS nvarchar(40)), CAST(q.increment AS nvarchar(40)), CAST(q.minimum_value AS nvarchar(40)), CAST(q.maximum_value AS nvarchar(40)), CAST(q.is_cycling AS int), CAST(q.is_cached AS int), q.cache_size, CAST(q.current_value AS nvarchar(40))
FROM sys.sequences AS q INNER JOIN sys.schemas AS s ON s.schema_id = q.schema_id INNER JOIN sys.types AS y ON y.user_type_id = q.user_type_id
WHERE s.name <> N'leeward' ORDER BY s.name, q.name`
}

// sqlUserTypes lists alias types and table types; the object of a table type holds its columns.
func sqlUserTypes() string {
	return `SELECT s.name, u.name, b.name, CAST(u.max_length AS int), CAST(u.precision AS int), CAST(u.scale AS int), CAST(u.is_nullable AS int), tt.type_table_object_id
FROM sys.types AS u INNER JOIN sys.schemas AS s ON s.schema_id = u.schema_id LEFT JOIN sys.types AS b ON b.user_type_id = u.system_type_id LEFT JOIN sys.table_types AS tt ON tt.user_type_id = u.user_type_id
WHERE u.is_user_defined = 1 ORDER BY s.name, u.name`
}

// sqlSchemas lists the user's schemas.
func sqlSchemas() string {
	return `SELECT s.name FROM sys.schemas AS s WHERE s.name NOT IN (N'dbo', N'guest', N'sys', N'INFORMATION_SCHEMA', N'information_schema', N'leeward') AND LEFT(s.name, 3) <> N'db_' ORDER BY s.name`
}

// sqlSizes estimates rows and bytes of all tables; it needs VIEW DATABASE STATE.
func sqlSizes() string {
	return `SELECT p.object_id, SUM(p.row_count), SUM(p.used_page_count) * 8192 FROM sys.dm_db_partition_stats AS p WHERE p.index_id < 2 GROUP BY p.object_id`
}

// sqlRowCounts estimates rows where sqlSizes cannot be had.
func sqlRowCounts() string {
	return `SELECT p.object_id, SUM(p.rows), CAST(0 AS bigint) FROM sys.partitions AS p WHERE p.index_id < 2 GROUP BY p.object_id`
}

// sqlSynonyms lists synonyms.
func sqlSynonyms() string {
	return `SELECT s.name, y.name, y.base_object_name FROM sys.synonyms AS y INNER JOIN sys.schemas AS s ON s.schema_id = y.schema_id ORDER BY s.name, y.name`
}

// sqlIdentities reads where identities stand.
func sqlIdentities() string {
	return `SELECT s.name, t.name, c.name, CAST(c.last_value AS nvarchar(40)), CAST(c.increment_value AS nvarchar(40))
FROM sys.identity_columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> N'leeward' AND c.last_value IS NOT NULL ORDER BY s.name, t.name`
}
